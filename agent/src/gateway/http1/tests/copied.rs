//! Copies: what the tap holds while the relay goes on.

use super::*;
