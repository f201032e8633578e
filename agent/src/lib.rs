//! The program in the target's network namespace: redirect, gateway, sessions.
pub mod guard;
pub mod netns;
pub mod redirect;
pub mod socket;
