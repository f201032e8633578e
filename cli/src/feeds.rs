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
    /// Names of the pods; this machine's targets have none.
    pods: Vec<String>,
    source: Source,
}

enum Source {
    /// Asked on this thread.
    One(Feed),
    /// Each is asked on a thread of its own; how many are open.
    Several(Receiver<(usize, Next)>, usize),
}

impl Feeds {
    /// Of a target of this machine.
    pub fn one(feed: Feed) -> Self {
        Self { pods: Vec::new(), source: Source::One(feed) }
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
        Self { pods, source: Source::Several(news, open) }
    }

    /// Whether lines have to say which pod they are of.
    pub fn are_several(&self) -> bool {
        self.pods.len() > 1
    }

    /// The pod's name; none on this machine.
    pub fn pod(&self, at: usize) -> Option<&str> {
        self.pods.get(at).map(String::as_str)
    }

    /// What comes next, and of which pod. The end is that of the last one.
    pub fn next(&mut self, within: Duration) -> (usize, Next) {
        loop {
            let (news, open) = match &mut self.source {
                Source::One(feed) => return (0, feed.next(within)),
                Source::Several(news, open) => (news, open),
            };
            let (at, next) = match news.recv_timeout(within) {
                Ok(news) => news,
                Err(RecvTimeoutError::Timeout) => return (0, Next::NotYet),
                Err(RecvTimeoutError::Disconnected) => return (0, Next::End(None)),
            };
            let Next::End(why) = next else { return (at, next) };
            *open -= 1;
            if *open == 0 {
                return (at, Next::End(why));
            }
            if let (Some(why), Some(pod)) = (why, self.pods.get(at)) {
                console::notice(Level::Warn, &format!("nothing more of the pod {}: {}", plain(pod), why.error));
            }
        }
    }
}
