//! A client, a pod and sessions' programs, all of them h2 in memory, around one served connection.

mod failures;
mod filters;
mod flow;
mod requests;
mod wire;
mod world;

use world::{World, fetch, get, post, run, settle};
