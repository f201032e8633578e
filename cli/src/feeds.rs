//! What the agents of a target's pods tell, as one: a target in a cluster may have several, and each line is of one of them.
//!
//! `agent --lines--> Feed --> thread --(which pod, lines)--> Feeds`

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

use mirrord_intproxy::records::{Feed, Next};
use mirrord_protocol::control::Level;

use crate::{console, paint::plain};

/// Pieces of lines that wait; what does not fit waits at its agent.
const ROOM: usize = 16;
/// How long a feed is waited for at a time.
const WAIT: Duration = Duration::from_secs(3600);

/// The feeds of one or several pods.
pub struct Feeds {
    /// Names of the pods; of this machine's targets there is one without.
    pods: Vec<String>,
    news: Receiver<(usize, Next)>,
    open: usize,
    /// A feed that is asked on this thread, where there is but one.
    only: Option<Feed>,
}

impl Feeds {
    /// Of a target of this machine.
    pub fn one(feed: Feed) -> Self {
        let (_, news) = sync_channel(0);
        Self { pods: vec![String::new()], news, open: 1, only: Some(feed) }
    }

    /// Of pods, by their names.
    pub fn several(feeds: Vec<(String, Feed)>) -> Self {
        let open = feeds.len();
        let (tell, news) = sync_channel(ROOM);
        let mut pods = Vec::new();
        for (at, (pod, feed)) in feeds.into_iter().enumerate() {
            pods.push(pod);
            let tell = tell.clone();
            // It ends with its feed, or once nobody reads.
            thread::spawn(move || {
                loop {
                    let next = feed.next(WAIT);
                    let is_end = matches!(next, Next::End(_));
                    if tell.send((at, next)).is_err() || is_end {
                        return;
                    }
                }
            });
        }
        Self { pods, news, open, only: None }
    }

    /// Whether lines have to say which pod they are of.
    pub fn are_several(&self) -> bool {
        self.pods.len() > 1
    }

    /// The pod's name; none on this machine.
    pub fn pod(&self, at: usize) -> Option<&str> {
        self.pods.get(at).map(String::as_str).filter(|pod| !pod.is_empty())
    }

    /// What comes next, and of which pod. The end is that of the last one.
    pub fn next(&mut self, within: Duration) -> (usize, Next) {
        if let Some(only) = &self.only {
            return (0, only.next(within));
        }
        loop {
            let (at, next) = match self.news.recv_timeout(within) {
                Ok(news) => news,
                Err(RecvTimeoutError::Timeout) => return (0, Next::NotYet),
                Err(RecvTimeoutError::Disconnected) => return (0, Next::End(None)),
            };
            let Next::End(why) = next else { return (at, next) };
            self.open -= 1;
            if self.open == 0 {
                return (at, Next::End(why));
            }
            if let (Some(why), Some(pod)) = (why, self.pod(at)) {
                console::notice(Level::Warn, &format!("nothing more of the pod {}: {}", plain(pod), why.error));
            }
        }
    }
}
