//! Memory of those who have gone is given back, and not looked for where there is none.

use std::{rc::Rc, time::Duration};

use super::App;
use crate::process;

/// How often it is looked at whether many clients have gone or much memory is free, and how many are many: half a MiB or more.
const TRIM_CHECK: Duration = Duration::from_secs(1);
const TRIM_AFTER: u64 = 256;
/// So much more is free than could not be given back the last time: a single client's thousand streams have gone.
const TRIM_FREE: u64 = 1 << 20;

impl App {
    /// Memory of clients, or of their streams, that have gone is given back once many have. Ends never.
    pub(super) async fn trim(self: Rc<Self>) {
        let (mut peak, mut last) = (0, 0);
        let (mut left, mut last_free) = (process::free_memory(), 0);
        let mut once_more = false;
        loop {
            tokio::time::sleep(TRIM_CHECK).await;
            let open: u64 = self.counters.iter().map(|counters| counters.open()).sum();
            peak = peak.max(open);
            let free = process::free_memory();
            left = left.min(free);
            // Once no more go: those that go after it would keep theirs.
            let many_went = peak - open >= TRIM_AFTER && open >= last;
            let is_due = many_went || (free >= left + TRIM_FREE && free <= last_free);
            // What a worker gave up while the last one ran, that one has passed over, and counted as what has to be left.
            if is_due || once_more {
                peak = open;
                let _ = tokio::task::spawn_blocking(process::trim).await;
                left = process::free_memory();
                once_more = is_due;
            }
            (last, last_free) = (open, free);
        }
    }
}
