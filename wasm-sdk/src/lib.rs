//! Write mirrord filters in Rust.
//!
//! A filter sees the head of each request that reaches the target and says where it goes: on to the pod, to your
//! process, to both, or nowhere because the filter answers itself. It runs as WebAssembly inside the agent, once per
//! worker thread, within limits (10 ms a call, 16 MiB): one that fails lets the request pass to the pod.
//!
//! ```
//! use mirrord_filter_sdk::{filter, Filter, Request, Verdict};
//!
//! struct Mine {
//!     user: String,
//! }
//!
//! impl Filter for Mine {
//!     fn from_config(config: &[u8]) -> Result<Self, String> {
//!         let user = std::str::from_utf8(config).map_err(|e| format!("the config is not UTF-8: {e}"))?;
//!         if user.is_empty() {
//!             return Err("give a user name as the config".into());
//!         }
//!         Ok(Mine { user: user.into() })
//!     }
//!
//!     fn on_request(&mut self, request: &mut Request) -> Verdict {
//!         if request.header("x-user") != Some(self.user.as_bytes()) {
//!             return Verdict::Pass;
//!         }
//!         request.reason("x-user is mine");
//!         request.set_response_header("x-seen-by", "my filter");
//!         Verdict::Steal
//!     }
//! }
//!
//! filter!(Mine);
//!
//! // Natively the same code runs in plain unit tests:
//! use mirrord_filter_sdk::testing;
//! let mut mine = testing::configure::<Mine>("me").unwrap();
//! let outcome = testing::Request::get("/cart").header("X-User", "me").run(&mut mine);
//! assert_eq!(outcome.verdict, Verdict::Steal);
//! ```
//!
//! `Cargo.toml` needs `crate-type = ["cdylib", "rlib"]` (the second one for tests); then
//! `cargo build --release --target wasm32-unknown-unknown` and `mirrord exec --filter mine.wasm`.
//! A complete one is `examples/filters/header`. The ABI below is described in `docs/abi.md`.

pub mod abi;
pub mod baggage;
mod body;
pub mod config;
pub mod cookies;
pub mod graphql;
pub mod grpc;
pub mod host;
pub mod json;
pub mod jwt;
pub mod log;
mod message;
pub mod metrics;
pub mod percent;
pub mod query;
pub mod state;
pub mod trace;
mod verdict;

#[cfg(target_arch = "wasm32")]
#[path = "guest.rs"]
mod source;
#[cfg(not(target_arch = "wasm32"))]
#[path = "native.rs"]
mod source;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod export;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use body::{Body, Connection};
pub use message::{Request, Response};
pub use verdict::{Reply, Verdict};

/// A traffic filter. One value lives in each worker thread of the agent for as long as the subscription, and is made
/// anew after a failure: what it remembers between requests is a cache, not a record.
pub trait Filter: Sized {
    /// Makes the filter from what the user gave as `--filter-config` (empty when absent).
    ///
    /// # Errors
    /// The text that the user reads when the config is no good. Nothing is redirected then.
    fn from_config(config: &[u8]) -> Result<Self, String>;

    /// Decides about one request.
    fn on_request(&mut self, request: &mut Request) -> Verdict;

    /// Decides about a request on which [`Request::need_body`] was called: with the beginning of its body, `end` if that is
    /// all of it. Has to decide: [`Verdict::NeedBody`] is a failure here.
    fn decide_by_body(&mut self, request: &mut Request, body: &[u8], end: bool) -> Verdict {
        let _ = (request, body, end);
        Verdict::Pass
    }

    /// Sees the body of a request on which [`Request::watch_request_body`] was called, piece by piece.
    fn on_request_body(&mut self, body: &mut Body) {
        let _ = body;
    }

    /// Sees the head of the response to a request on which [`Request::watch_response`] was called. Requests are
    /// interleaved: [`Response::token`] says which one it belongs to. What is the same for every response of a request
    /// is better set up front with [`Request::set_response_header`].
    fn on_response(&mut self, response: &mut Response) {
        let _ = response;
    }

    /// Sees the body of a response that was asked for with [`Request::watch_response_body`] or [`Response::watch_body`].
    fn on_response_body(&mut self, body: &mut Body) {
        let _ = body;
    }

    /// An exchange on which [`Request::watch_end`] was called is over, however it ended.
    fn on_end(&mut self, token: u64) {
        let _ = token;
    }

    /// Decides about a connection that is not HTTP. Called for filters that are exported with
    /// `filter!(Mine, connections)`; it cannot respond, and sees no more than [`Connection`] has.
    fn on_connection(&mut self, connection: &mut Connection) -> Verdict {
        let _ = connection;
        Verdict::Pass
    }
}

/// Exports a [`Filter`] under the names that the agent calls; with `connections` also [`Filter::on_connection`]. Once in a
/// crate; outside WebAssembly it does nothing.
#[macro_export]
macro_rules! filter {
    ($filter:ty) => {
        $crate::filter!(@ $filter, {});
    };
    ($filter:ty, connections) => {
        $crate::filter!(@ $filter, {
            #[unsafe(no_mangle)]
            extern "C" fn mirrord_on_connection() -> i32 {
                SLOT.on_connection()
            }
        });
    };
    (@ $filter:ty, { $($more:item)* }) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            static SLOT: $crate::export::Slot<$filter> = $crate::export::Slot::new();

            #[unsafe(no_mangle)]
            extern "C" fn mirrord_abi_version_1() {}

            #[unsafe(no_mangle)]
            extern "C" fn mirrord_configure() -> i32 {
                SLOT.configure()
            }

            #[unsafe(no_mangle)]
            extern "C" fn mirrord_on_request() -> i32 {
                SLOT.on_request()
            }

            #[unsafe(no_mangle)]
            extern "C" fn mirrord_on_request_body(token: u64, end: i32) -> i32 {
                SLOT.on_request_body(token, end != 0)
            }

            #[unsafe(no_mangle)]
            extern "C" fn mirrord_on_response(token: u64) {
                SLOT.on_response(token)
            }

            #[unsafe(no_mangle)]
            extern "C" fn mirrord_on_response_body(token: u64, end: i32) {
                SLOT.on_response_body(token, end != 0)
            }

            #[unsafe(no_mangle)]
            extern "C" fn mirrord_on_end(token: u64) {
                SLOT.on_end(token)
            }

            $($more)*
        };
    };
}
