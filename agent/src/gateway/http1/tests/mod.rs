//! The relay on connections in memory: everything that can be said to it, in every cut, with peers that take a byte at a time.

mod ambiguous;

mod bodies;
mod held;
mod memory;
mod passed;
mod stolen;

use std::{cell::RefCell, collections::HashMap, future::ready, io, rc::Rc, task::Context};

use mirrord_filters::{BodyDecision, ConnectionParts, Edit, LocalResponse, RequestParts, ResponseDecision, ResponseParts, Side};

use mirrord_tunnel::Purse;

use self::memory::Memory;
use super::relay::{Exit, Relay, Rest};
use crate::gateway::{
    link::Link,
    steer::{Connecting, Event, Extra, Flow, Follow, Plan, SessionId, Steered, Steering, Surroundings, Target, Upstream},
};

type Steer = Box<dyn Fn(&RequestParts<'_>) -> Steered>;

/// Steering by what a test says; upstreams in memory.
struct Scene {
    steer: Steer,
    refuse: bool,
    /// Sessions that take no stream.
    unreachable: RefCell<Vec<SessionId>>,
    opened: RefCell<Vec<(Upstream, Memory)>>,
    /// What an upstream says as soon as it is opened.
    greetings: RefCell<HashMap<Upstream, Vec<Memory>>>,
    events: RefCell<Vec<Event>>,
    /// Bytes that an upstream takes at a time; 0: all.
    slow: usize,
    /// What bounds what sessions have under way.
    purse: RefCell<Option<Purse>>,
}

impl Surroundings for Scene {
    type Stream = Memory;

    fn plan(&self, _: &Flow) -> Plan {
        Plan::Read
    }

    fn steer(self: &Rc<Self>, _: &Flow, request: &RequestParts<'_>) -> Steered {
        (self.steer)(request)
    }

    fn connection(&self, _: &Flow, _: &ConnectionParts<'_>) -> Connecting {
        Connecting::default()
    }

    fn refuse_ambiguous(&self, _: &Flow) -> bool {
        self.refuse
    }

    fn open(self: &Rc<Self>, _: &Flow, upstream: Upstream) -> impl Future<Output = io::Result<Memory>> + 'static {
        if let Upstream::Session(id) = upstream
            && self.unreachable.borrow().contains(&id)
        {
            return ready(Err(io::ErrorKind::ConnectionRefused.into()));
        }
        let prepared = self.greetings.borrow_mut().get_mut(&upstream).and_then(|list| (!list.is_empty()).then(|| list.remove(0)));
        let stream = prepared.unwrap_or_default();
        stream.slow(self.slow);
        self.opened.borrow_mut().push((upstream, stream.clone()));
        ready(Ok(stream))
    }

    fn purse(&self, _: SessionId) -> Option<Purse> {
        self.purse.borrow().clone()
    }

    fn abort(&self, stream: &mut Memory) {
        stream.0.borrow_mut().aborted = true;
    }

    fn count(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }
}

/// A filter that follows exchanges: replaces each of its words in bodies, and watches heads.
#[derive(Debug, Default)]
struct Follower {
    window: Option<usize>,
    response_window: Option<usize>,
    replaces: Option<(&'static str, &'static str)>,
    abort_on: Option<&'static str>,
    on_response: Option<ResponseDecision>,
    log: FollowerLog,
}

/// What a follower was shown, and its end.
#[derive(Debug, Default)]
struct FollowerLog(Rc<RefCell<Vec<String>>>);

impl Follow for Follower {
    fn window(&self, side: Side) -> Option<usize> {
        if side == Side::Request { self.window } else { self.response_window }
    }

    fn may_replace(&self, _: Side) -> bool {
        self.replaces.is_some()
    }

    fn on_body(&mut self, side: Side, bytes: &[u8], end: bool) -> BodyDecision {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let abort = self.abort_on.is_some_and(|word| text.contains(word));
        let replaced = self.replaces.filter(|(from, _)| text.contains(from)).map(|(from, to)| text.replace(from, to).into_bytes());
        self.log.0.borrow_mut().push(format!("{side:?} {text}{}", if end { "." } else { "" }));
        BodyDecision { replaced, abort, ..BodyDecision::default() }
    }

    fn wants_response(&self) -> bool {
        self.on_response.is_some()
    }

    fn on_response(&mut self, response: &ResponseParts<'_>) -> ResponseDecision {
        self.log.0.borrow_mut().push(format!("status {}", response.status));
        self.on_response.take().unwrap_or_default()
    }
}

impl Drop for FollowerLog {
    fn drop(&mut self) {
        self.0.borrow_mut().push("end".into());
    }
}

/// A client, the relay, and whatever it opens.
struct Stage {
    scene: Rc<Scene>,
    relay: Relay<Scene>,
    client: Memory,
    exit: Option<Exit>,
}

fn flow() -> Flow {
    Flow { client: ([10, 0, 0, 9], 4000).into(), destination: ([10, 0, 0, 1], 80).into() }
}

/// Everything to the pod.
fn pass(_: &RequestParts<'_>) -> Steering {
    Steering::default()
}

/// To session 1 what has `x-user: me`; `x-user: mE` is answered here.
fn by_user(request: &RequestParts<'_>) -> Steering {
    let user = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(b"x-user")).map(|field| field.value);
    let target = match user {
        Some(b"me") => Target::Session(1),
        Some(b"mE") => Target::Respond(mirrord_filters::LocalResponse { status: 403, headers: vec![], body: b"mine".to_vec() }),
        _ => Target::Pod,
    };
    Steering { target, ..Steering::default() }
}

impl Stage {
    fn new(steer: impl Fn(&RequestParts<'_>) -> Steering + 'static) -> Self {
        Self::with(steer, 0, false)
    }

    fn with(steer: impl Fn(&RequestParts<'_>) -> Steering + 'static, slow: usize, refuse: bool) -> Self {
        Self::asking(move |request| Steered::Decided(steer(request)), slow, refuse)
    }

    /// With filters that need not decide at once.
    fn asking(steer: impl Fn(&RequestParts<'_>) -> Steered + 'static, slow: usize, refuse: bool) -> Self {
        let scene = Rc::new(Scene {
            steer: Box::new(steer),
            refuse,
            unreachable: RefCell::default(),
            opened: RefCell::default(),
            greetings: RefCell::default(),
            events: RefCell::default(),
            slow,
            purse: RefCell::default(),
        });
        let pod = Link::open(&scene, &flow(), Upstream::Pod);
        let client = Memory::default();
        client.slow(slow);
        Stage { relay: Relay::new(scene.clone(), flow(), pod), scene, client, exit: None }
    }

    /// What is being waited for takes too long.
    fn expire(&mut self) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(self.relay.waiting().is_some(), "nothing is waited for");
        self.exit = self.relay.expired(&mut cx, &mut [0; 4096]).err();
        self.run();
    }

    /// As when something woke the connection.
    fn run_once(&mut self) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.exit = self.relay.drive(&mut cx, &mut self.client, &mut [0; 4096]).err();
        self.run();
    }

    /// Lets the machine move until nothing moves any more.
    fn run(&mut self) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut scratch = vec![0; 4096];
        while self.exit.is_none() {
            let before = self.activity();
            self.exit = self.relay.drive(&mut cx, &mut self.client, &mut scratch).err();
            if self.activity() == before {
                break;
            }
        }
    }

    fn activity(&self) -> usize {
        self.client.activity() + self.scene.opened.borrow().iter().map(|(_, stream)| stream.activity()).sum::<usize>()
    }

    fn client_says(&mut self, bytes: impl AsRef<[u8]>) {
        self.client.say(bytes.as_ref());
        self.run();
    }

    fn client_ends(&mut self) {
        self.client.end();
        self.run();
    }

    fn says(&mut self, upstream: Upstream, bytes: impl AsRef<[u8]>) {
        self.stream(upstream).say(bytes.as_ref());
        self.run();
    }

    fn ends(&mut self, upstream: Upstream) {
        self.stream(upstream).end();
        self.run();
    }

    fn pod_says(&mut self, bytes: impl AsRef<[u8]>) {
        self.says(POD, bytes);
    }

    /// The stream that was last opened to an upstream.
    fn stream(&self, upstream: Upstream) -> Memory {
        self.scene.opened.borrow().iter().rev().find(|(found, _)| *found == upstream).expect("never opened").1.clone()
    }

    fn opened(&self, upstream: Upstream) -> usize {
        self.scene.opened.borrow().iter().filter(|(found, _)| *found == upstream).count()
    }

    /// All that an upstream was told on its last stream since the last look.
    fn heard(&self, upstream: Upstream) -> String {
        match self.opened(upstream) {
            0 => String::new(),
            _ => self.stream(upstream).heard(),
        }
    }

    fn client_heard(&self) -> String {
        self.client.heard()
    }

    fn rest(&mut self) -> Rest<Memory> {
        self.relay.take_rest(self.exit.expect("still running"))
    }
}

const POD: Upstream = Upstream::Pod;
const SESSION: Upstream = Upstream::Session(1);

/// Cuts that show a machine's states: whole, in two at every place, byte by byte.
fn cuts(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut cuts = vec![vec![bytes], bytes.chunks(1).collect()];
    let step = (bytes.len() / 200).max(1);
    cuts.extend((1..bytes.len()).step_by(step).map(|at| vec![&bytes[..at], &bytes[at..]]));
    cuts
}
