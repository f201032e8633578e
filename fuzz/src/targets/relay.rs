//! The relay's machine between a client, the pod and a session, all in memory. An input is a play: who says what, and who
//! ends. It is played with whole lines and again cut in pieces, to peers that take everything or a few bytes at a time;
//! what everybody has heard in the end must be the same.
//!
//! ```text
//! options, cut, slowness, then the client's words; 0xFE and a letter change the speaker:
//!   c p s  client, pod, session says what follows     C P S  ends     t  the time that is being waited for is over
//! ```

use std::{cell::RefCell, future::ready, io, rc::Rc, task::Context, task::Waker};

use mirrord_filters::{ConnectionParts, LocalResponse, RequestParts};

use super::{choices, cut, memory::Stream};
use crate::gateway::{
    http1::{
        head::{self, Read},
        relay::{Exit, Relay, Waiting},
    },
    link::Link,
    steer::{Connecting, Event, Flow, Plan, Steered, Steering, Surroundings, Target, Upstream},
};

const CHANGE: u8 = 0xFE;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Steer {
    /// Everything is the pod's.
    Pass,
    /// What says `x-user: me` is the session's.
    Steal,
    /// Likewise, and `x-user: mE` is answered here.
    StealOrRespond,
}

#[derive(Clone, Copy)]
struct Options {
    refuse: bool,
    steer: Steer,
    reachable: bool,
}

enum Act<'a> {
    Says(char, &'a [u8]),
    Ends(char),
    Time,
}

/// What is the same for every cut.
struct Outcome {
    exit: Option<Exit>,
    /// Where the machine was after each act.
    after: Vec<After>,
    pod: Vec<Heard>,
    client: Vec<u8>,
    sessions: Vec<Heard>,
    /// A session has said more than its answer: none asks it any more.
    left_alone: bool,
    events: Vec<Event>,
}

#[derive(Clone, Copy, Debug)]
enum After {
    Waits(Option<Waiting>),
    Stopped(Exit),
}

impl PartialEq for After {
    /// From where on bytes are only copied to and from the pod, it does not matter why: of two reasons the first to be met is told.
    fn eq(&self, other: &Self) -> bool {
        let copies = |exit: &Exit| matches!(exit, Exit::Http2 | Exit::NotHttp | Exit::Opaque(_) | Exit::Closing);
        match (self, other) {
            (After::Waits(a), After::Waits(b)) => a == b,
            (After::Stopped(a), After::Stopped(b)) => a == b || (copies(a) && copies(b)),
            _ => false,
        }
    }
}

/// What an upstream has heard on one stream. One that was cut off has heard as much as came before the reason did, and a session
/// that has answered and ended, or has said more than its answer, need not have heard the rest of the request.
#[derive(Debug)]
struct Heard {
    bytes: Vec<u8>,
    aborted: bool,
    answered: bool,
}

impl PartialEq for Heard {
    fn eq(&self, other: &Self) -> bool {
        let same = self.bytes.iter().zip(&other.bytes).all(|(a, b)| a == b);
        self.aborted == other.aborted && same && (self.aborted || self.answered || self.bytes.len() == other.bytes.len())
    }
}

impl Eq for Heard {}

struct Scene {
    options: Options,
    slow: usize,
    opened: RefCell<Vec<(Upstream, Stream)>>,
    events: RefCell<Vec<Event>>,
    log: Rc<RefCell<Vec<u8>>>,
}

impl Scene {
    fn last(&self, pod: bool) -> Option<Stream> {
        let opened = self.opened.borrow();
        opened.iter().rev().find(|(upstream, _)| (*upstream == Upstream::Pod) == pod).map(|(_, stream)| stream.clone())
    }
}

impl Surroundings for Scene {
    type Stream = Stream;

    fn plan(&self, _: &Flow) -> Plan {
        Plan::Read
    }

    fn steer(self: &Rc<Self>, _: &Flow, request: &RequestParts<'_>) -> Steered {
        let user = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(b"x-user")).map(|field| field.value);
        let target = match (self.options.steer, user) {
            (Steer::Steal | Steer::StealOrRespond, Some(b"me")) => Target::Session(1),
            (Steer::StealOrRespond, Some(b"mE")) => {
                Target::Respond(LocalResponse { status: 403, headers: Vec::new(), body: b"mine".to_vec() })
            }
            _ => Target::Pod,
        };
        Steered::Decided(Steering { target, ..Steering::default() })
    }

    fn connection(&self, _: &Flow, _: &ConnectionParts<'_>) -> Connecting {
        Connecting::default()
    }

    fn refuse_ambiguous(&self, _: &Flow) -> bool {
        self.options.refuse
    }

    fn open(self: &Rc<Self>, _: &Flow, upstream: Upstream) -> impl Future<Output = io::Result<Stream>> + 'static {
        if upstream != Upstream::Pod && !self.options.reachable {
            return ready(Err(io::ErrorKind::ConnectionRefused.into()));
        }
        let stream = Stream::new(self.slow, Some(self.log.clone()));
        self.opened.borrow_mut().push((upstream, stream.clone()));
        ready(Ok(stream))
    }

    fn abort(&self, stream: &mut Stream) {
        use crate::gateway::sock::Sock;
        Sock::abort(stream);
    }

    fn count(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }
}

pub fn relay(data: &[u8]) {
    let ([options, seed, slow], words) = choices(data);
    let steer = match options >> 1 & 3 {
        0 => Steer::Pass,
        1 | 2 => Steer::Steal,
        _ => Steer::StealOrRespond,
    };
    let options = Options { refuse: options & 1 != 0, steer, reachable: options & 8 == 0 };
    let acts = acts(words);
    let whole = play(&acts, options, 0, 0);
    for (seed, slow) in [(1, 0), (seed.max(2), 0), (0, usize::from(slow % 16) + 1), (seed.max(2), usize::from(slow % 16) + 1)] {
        let cut = play(&acts, options, seed, slow);
        if !same(&whole, &cut, options.refuse) {
            panic!("cut by {seed}, taken {slow} at a time:\n{}\nwhole:\n{}", show(&cut), show(&whole));
        }
    }
}

/// `a` is the whole play, `b` the same cut. A client that sees a reset may have seen less or more before it.
fn same(a: &Outcome, b: &Outcome, refuse: bool) -> bool {
    // What a session says beyond its answer is nobody's, unless the next request has reached it by then: then it is the next
    // answer, or the beginning of one.
    if a.left_alone || b.left_alone || a.sessions.len() > b.sessions.len() {
        return true;
    }
    // A malformed head is known for one at once, unless it comes in pieces: then its end is waited for, within bounds. What
    // follows differs with what the others say in the meantime.
    let found = |after: &After| matches!(after, After::Stopped(_) | After::Waits(Some(Waiting::Drain)));
    if let Some((a, b)) = a.after.iter().zip(&b.after).find(|(a, b)| a != b) {
        // Where heads are refused it matters who is first: a bad head, or a response that cannot be read.
        return refuse || (found(a) && !found(b));
    }
    let failed = |outcome: &Outcome| outcome.events.contains(&Event::BadGateway);
    if a.pod != b.pod || a.sessions != b.sessions || failed(a) != failed(b) {
        return false;
    }
    let reset = a.exit == Some(Exit::Reset) && a.client.iter().zip(&b.client).all(|(a, b)| a == b);
    a.client == b.client || reset || (failed(a) && same_but_for_interim(&a.client, &b.client))
}

/// 1xx responses before one that cannot be read go to the client if they came before it, and are thrown away with it if not.
fn same_but_for_interim(a: &[u8], b: &[u8]) -> bool {
    let split = |bytes: &[u8]| memchr::memmem::rfind(bytes, b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain").unwrap_or(bytes.len());
    let ((a, a_error), (b, b_error)) = (a.split_at(split(a)), b.split_at(split(b)));
    a_error == b_error && b.strip_prefix(a).is_some_and(|interim| interim.starts_with(b"HTTP/1.1 1") || interim.starts_with(b"HTTP/1.0 1"))
}

fn show(outcome: &Outcome) -> String {
    let Outcome { exit, after, pod, client, sessions, events, .. } = outcome;
    let readable =
        |streams: &[Heard]| streams.iter().map(|heard| (heard.bytes.escape_ascii().to_string(), heard.aborted)).collect::<Vec<_>>();
    let (pod, sessions) = (readable(pod), readable(sessions));
    format!("  {exit:?} {events:?} {after:?}\n  pod: {pod:#?}\n  sessions: {sessions:#?}\n  client: {}", client.escape_ascii())
}

fn acts(words: &[u8]) -> Vec<Act<'_>> {
    let mut acts = Vec::new();
    for (index, part) in words.split(|byte| *byte == CHANGE).enumerate() {
        match (index, part.split_first()) {
            (0, _) => acts.push(Act::Says('c', part)),
            (_, Some((b't', _))) => acts.push(Act::Time),
            (_, Some((who, _))) if who.is_ascii_uppercase() => acts.push(Act::Ends(who.to_ascii_lowercase() as char)),
            (_, Some((who, rest))) => acts.push(Act::Says(*who as char, rest)),
            (_, None) => {}
        }
    }
    acts
}

/// The machine, until it has become a copier of bytes or all is over.
enum Phase {
    Reads,
    /// The upstream that goes on is the pod's, or the session's.
    Copies {
        pod: bool,
    },
    Over,
}

struct Stage {
    scene: Rc<Scene>,
    relay: Relay<Scene>,
    client: Stream,
    exit: Option<Exit>,
    phase: Phase,
    /// After the machine stopped: bytes on their way to the upstream, and to the client.
    up: Vec<u8>,
    down: Vec<u8>,
}

impl Stage {
    fn new(options: Options, slow: usize) -> Self {
        let scene = Rc::new(Scene { options, slow, opened: RefCell::default(), events: RefCell::default(), log: Rc::default() });
        let flow = Flow { client: ([10, 0, 0, 9], 4000).into(), destination: ([10, 0, 0, 1], 80).into() };
        let relay = Relay::new(scene.clone(), flow, Link::open(&scene, &flow, Upstream::Pod));
        let client = Stream::new(slow, None);
        Stage { scene, relay, client, exit: None, phase: Phase::Reads, up: Vec::new(), down: Vec::new() }
    }

    fn activity(&self) -> usize {
        self.client.activity() + self.scene.opened.borrow().iter().map(|(_, stream)| stream.activity() + 1).sum::<usize>()
    }

    /// Lets the machine move until nothing moves any more.
    fn run(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut scratch = [0; 4096];
        // A machine that never comes to rest is a finding, too.
        for _ in 0..100_000 {
            match self.phase {
                Phase::Reads => {}
                Phase::Copies { pod } => return self.copy(pod),
                Phase::Over => return,
            }
            let before = self.activity();
            match self.relay.drive(&mut cx, &mut self.client, &mut scratch) {
                Err(exit) => self.stop(exit),
                Ok(()) if self.activity() == before => return,
                Ok(()) => {}
            }
        }
        panic!("never comes to rest");
    }

    fn stop(&mut self, exit: Exit) {
        let session = exit == Exit::Tunnel && {
            // Whose link goes on shows in who it is that answers.
            let rest = self.relay.take_rest(exit);
            (self.up, self.down) = (rest.up, rest.down);
            match rest.link {
                Link::Open(stream) => self.scene.last(true).is_none_or(|pod| !pod.is(&stream)),
                Link::Opening(_) | Link::Closed(_) => false,
            }
        };
        self.phase = match exit {
            Exit::Done | Exit::Gone | Exit::Reset => Phase::Over,
            Exit::Tunnel => Phase::Copies { pod: !session },
            Exit::Http2 | Exit::NotHttp | Exit::Opaque(_) | Exit::Closing => {
                let rest = self.relay.take_rest(exit);
                (self.up, self.down) = (rest.up, rest.down);
                Phase::Copies { pod: true }
            }
        };
        self.exit = Some(exit);
    }

    fn copy(&mut self, pod: bool) {
        self.up.extend(self.client.unread());
        if let Some(stream) = self.scene.last(pod) {
            self.down.extend(stream.unread());
        }
    }

    fn expire(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        if matches!(self.phase, Phase::Reads)
            && self.relay.waiting().is_some()
            && let Err(exit) = self.relay.expired(&mut cx, &mut [0; 4096])
        {
            self.stop(exit);
        }
    }
}

fn play(acts: &[Act<'_>], options: Options, seed: u8, slow: usize) -> Outcome {
    let mut stage = Stage::new(options, slow);
    let mut after = Vec::new();
    let (mut client_said, mut pod_said) = (Vec::new(), Vec::new());
    let mut session_ended = false;
    for act in acts {
        match act {
            Act::Says('c', bytes) => {
                if !stage.client.ended() {
                    client_said.extend_from_slice(bytes);
                }
                for piece in cut(bytes, seed) {
                    stage.client.say(piece);
                    stage.run();
                }
            }
            Act::Ends('c') => stage.client.end(),
            Act::Says(who, bytes) => {
                if let Some(stream) = stage.scene.last(*who == 'p') {
                    if *who == 'p' && !stream.ended() {
                        pod_said.extend_from_slice(bytes);
                    }
                    for piece in cut(bytes, seed) {
                        stream.say(piece);
                        stage.run();
                    }
                }
            }
            Act::Ends(who) => {
                session_ended |= *who != 'p';
                stage.scene.last(*who == 'p').inspect(Stream::end);
            }
            Act::Time => stage.expire(),
        }
        stage.run();
        after.push(stage.exit.map_or_else(|| After::Waits(stage.relay.waiting()), After::Stopped));
    }
    let left_alone =
        stage.scene.opened.borrow().iter().any(|(upstream, stream)| *upstream != Upstream::Pod && stream.given_up() && !stream.ended());
    let going_on_with_pod = !matches!(stage.phase, Phase::Copies { pod: false });
    if stage.exit.is_none() {
        // What the machine holds has reached nobody yet, and is not lost either.
        let rest = stage.relay.take_rest(Exit::Closing);
        (stage.up, stage.down) = (rest.up, rest.down);
        stage.copy(true);
    }
    check(&stage, &client_said, &pod_said, (session_ended, left_alone));
    let answered = !stage.client.heard().is_empty();
    let heard = |pod: bool| {
        let opened = stage.scene.opened.borrow();
        let of = opened.iter().filter(|(upstream, _)| (*upstream == Upstream::Pod) == pod);
        of.map(|(_, stream)| Heard { bytes: stream.heard(), aborted: stream.aborted(), answered: !pod && (answered || stream.ended()) })
            .collect::<Vec<_>>()
    };
    let mut pod = heard(true);
    let mut sessions = heard(false);
    // The rest goes to whom the connection was left to.
    match (going_on_with_pod, pod.last_mut(), sessions.last_mut()) {
        (true, Some(last), _) => last.bytes.append(&mut stage.up),
        (false, _, Some(last)) => last.bytes.append(&mut stage.up),
        _ => {}
    }
    let mut client = stage.client.heard();
    client.append(&mut stage.down);
    let events = stage.scene.events.borrow().clone();
    Outcome { exit: stage.exit, after, pod, client, sessions, left_alone, events }
}

/// What holds for every single play.
fn check(stage: &Stage, client_said: &[u8], pod_said: &[u8], (session_ended, left_alone): (bool, bool)) {
    let options = stage.scene.options;
    let told = stage.scene.log.borrow();
    let over = matches!(stage.phase, Phase::Over);
    if !session_ended && options.steer != Steer::StealOrRespond {
        // Whoever it was for, each byte went on once and in the client's order.
        let mut rest = client_said.iter();
        // A session that has said more than its answer is left alone with the rest of the request, which then is nobody's.
        let in_order = if left_alone { told.iter().all(|byte| rest.any(|said| said == byte)) } else { client_said.starts_with(&told) };
        assert!(in_order, "upstreams heard {}", told.escape_ascii());
    }
    if options.steer == Steer::Pass && !options.refuse {
        // Nobody took or lost a byte, either way.
        let up = [told.as_slice(), &stage.up].concat();
        let down = [stage.client.heard(), stage.down.clone()].concat();
        assert!(pod_said.starts_with(&down), "the client heard {}", down.escape_ascii());
        if !over {
            assert_eq!(up.escape_ascii().to_string(), client_said.escape_ascii().to_string());
            assert_eq!(down.escape_ascii().to_string(), pod_said.escape_ascii().to_string());
        }
    }
    for (upstream, stream) in stage.scene.opened.borrow().iter() {
        if *upstream != Upstream::Pod {
            all_is_for_me(&stream.heard(), stage.exit == Some(Exit::Tunnel));
        }
    }
}

/// A session hears whole requests that are meant for it, one after the other, the last of which may be cut short.
fn all_is_for_me(heard: &[u8], tunnel: bool) {
    let mut at = 0;
    while at < heard.len() {
        let mine = |fields: &[mirrord_filters::Field<'_>]| {
            fields.iter().find(|field| field.name.eq_ignore_ascii_case(b"x-user")).is_some_and(|field| field.value == b"me")
        };
        match head::request(&heard[at..], |view| mine(view.fields)) {
            Read::Head((request, mine)) => {
                assert!(mine, "a session heard {}", heard[at..].escape_ascii());
                at += request.len;
                let mut body = request.body;
                match body.take(&heard[at..]) {
                    Ok(taken) => at += taken,
                    Err(_) => panic!("a session heard a broken chunk: {}", heard[at..].escape_ascii()),
                }
                if !body.is_done() {
                    return;
                }
            }
            // Of a head a slow session may have heard a part.
            Read::Partial => return,
            Read::Ambiguous(_) if tunnel => return,
            Read::Ambiguous(why) => panic!("a session heard {why:?} {}", heard[at..].escape_ascii()),
        }
    }
}
