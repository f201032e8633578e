//! A request that does not go on yet: a filter wants to see its body first, waits for something, or delays it. Only its stream
//! is held; what has come of its body is kept with it, and once it may go on it does so as if it had just come.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
};

use http::{HeaderValue, Request, Response, StatusCode, header};
use tokio::time::{Sleep, sleep};

use super::{exchange::Incoming, head, pump::Gathered, route::Shared};
use crate::gateway::steer::{DECISION_TIME, Event, MOST_QUESTIONS, Steered, Steering, Surroundings, Undecided};

/// What comes of asking once more.
enum Asked {
    Said(Steered),
    /// It takes too long, or too much.
    TooMuch,
    ClientGone,
}

impl<S: Surroundings> Shared<S> {
    /// Holds a request until it may go on. `None`: its client has gone before.
    pub(super) async fn hold(&self, steered: Steered, head: &Request<()>, incoming: &mut Incoming) -> Option<Steering> {
        let mut steering = match steered {
            Steered::Decided(steering) => steering,
            Steered::Undecided(undecided) => {
                let mut steering = self.decide(undecided, head, incoming).await?;
                self.begin(&mut steering, head, incoming);
                steering
            }
        };
        if let Some(delay) = steering.take_delay() {
            incoming.body.set_stuck(true);
            tokio::select! {
                () = sleep(delay) => {}
                _ = poll_fn(|cx| incoming.respond.poll_reset(cx)) => return None,
            }
            incoming.body.set_stuck(false);
        }
        Some(steering)
    }

    async fn decide(&self, mut undecided: Box<dyn Undecided>, head: &Request<()>, incoming: &mut Incoming) -> Option<Steering> {
        let mut deadline = pin!(sleep(DECISION_TIME));
        let end = incoming.body.is_end_stream();
        let mut questions = 0;
        let mut expects = head.headers().get(header::EXPECT).is_some_and(|expected| expected == HeaderValue::from_static("100-continue"));
        loop {
            let asked = match undecided.window() {
                _ if questions == MOST_QUESTIONS => Asked::TooMuch,
                None => self.ask_later(&mut undecided, head, end, incoming, deadline.as_mut()).await,
                Some(window) => {
                    questions += 1;
                    if std::mem::take(&mut expects) && !end {
                        // It waits for a word of the upstream, which has not heard of it yet.
                        let mut informational = Response::new(());
                        *informational.status_mut() = StatusCode::CONTINUE;
                        let _ = incoming.respond.send_informational(informational);
                    }
                    match gather(window, incoming, deadline.as_mut()).await {
                        Gathered::Enough => {
                            let (bytes, all) = incoming.body.gathered(window);
                            let said = head::with_request(&self.flow, head, end, |parts| undecided.with_body(parts, bytes, all));
                            match said {
                                Steered::Undecided(next) => {
                                    undecided = next;
                                    continue;
                                }
                                Steered::Decided(steering) => return Some(steering),
                            }
                        }
                        Gathered::NoRoom => Asked::TooMuch,
                        Gathered::Broken => Asked::ClientGone,
                    }
                }
            };
            match asked {
                Asked::Said(Steered::Decided(steering)) => return Some(steering),
                Asked::Said(Steered::Undecided(next)) => undecided = next,
                Asked::ClientGone => return None,
                Asked::TooMuch => {
                    self.surroundings.count(Event::Skipped);
                    return Some(head::with_request(&self.flow, head, end, |parts| undecided.skip(parts)));
                }
            }
        }
    }

    /// Waits for what the filter waits for.
    async fn ask_later(
        &self,
        undecided: &mut Box<dyn Undecided>,
        head: &Request<()>,
        end: bool,
        incoming: &mut Incoming,
        mut deadline: Pin<&mut Sleep>,
    ) -> Asked {
        incoming.body.set_stuck(true);
        let asked = poll_fn(|cx| {
            if let Poll::Ready(steered) = head::with_request(&self.flow, head, end, |parts| undecided.poll(cx, parts)) {
                return Poll::Ready(Asked::Said(steered));
            }
            if incoming.respond.poll_reset(cx).is_ready() {
                return Poll::Ready(Asked::ClientGone);
            }
            deadline.as_mut().poll(cx).map(|()| Asked::TooMuch)
        });
        let asked = asked.await;
        incoming.body.set_stuck(false);
        asked
    }
}

/// Reads so much of the body, or all of it.
async fn gather(window: usize, incoming: &mut Incoming, mut deadline: Pin<&mut Sleep>) -> Gathered {
    poll_fn(|cx| match incoming.body.poll_gather(cx, window) {
        Poll::Pending => deadline.as_mut().poll(cx).map(|()| Gathered::NoRoom),
        gathered => gathered,
    })
    .await
}
