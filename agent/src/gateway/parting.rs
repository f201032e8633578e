//! An end that costs nobody a request: once an agent that was told to stop has waited long enough for its clients, each of their
//! connections ends at the next moment between two responses.
//!
//! ```text
//! control --Order::Part--> worker: Parting::begin ──wakes──► all connections' tasks, which ask `has_begun` between requests
//! ```

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

/// One for each worker.
#[derive(Debug, Default)]
pub struct Parting {
    begun: Cell<bool>,
    last_key: Cell<u64>,
    /// Of the connections that are open: most sleep until somebody sends something.
    wakers: RefCell<HashMap<u64, Waker>>,
}

/// A connection's place among those to be woken.
struct Place {
    parting: Rc<Parting>,
    key: u64,
}

impl Parting {
    /// Whether connections are to end.
    #[inline]
    pub fn has_begun(&self) -> bool {
        self.begun.get()
    }

    /// Has every connection look.
    pub fn begin(&self) {
        self.begun.set(true);
        self.wakers.borrow().values().for_each(Waker::wake_by_ref);
    }

    /// Runs a connection's task so that it is woken when the end has come.
    pub async fn watch(self: Rc<Self>, connection: impl Future<Output = ()>) {
        // A task's waker is the same all its life.
        let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        let key = self.last_key.get() + 1;
        self.last_key.set(key);
        self.wakers.borrow_mut().insert(key, waker);
        let _place = Place { parting: self, key };
        connection.await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut wakers = self.parting.wakers.borrow_mut();
        wakers.remove(&self.key);
        // Memory of a thousand clients that came at once is given back.
        if wakers.len() < wakers.capacity() / 8 && wakers.capacity() > 256 {
            wakers.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::LocalSet;

    #[tokio::test]
    async fn all_that_wait_are_woken_and_forgotten_when_they_end() {
        let parting = Rc::new(Parting::default());
        let tasks = LocalSet::new();
        tasks
            .run_until(async {
                let waits = |parting: Rc<Parting>| {
                    let asked = parting.clone();
                    parting.watch(poll_fn(move |_| if asked.has_begun() { Poll::Ready(()) } else { Poll::Pending }))
                };
                let all: Vec<_> = (0..300).map(|_| tokio::task::spawn_local(waits(parting.clone()))).collect();
                // A tick of the tasks' set runs only some of them.
                while parting.wakers.borrow().len() < 300 {
                    tokio::task::yield_now().await;
                }
                parting.begin();
                for one in all {
                    one.await.unwrap();
                }
                assert!(parting.wakers.borrow().is_empty());
            })
            .await;
    }
}
