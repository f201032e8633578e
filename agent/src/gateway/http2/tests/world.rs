//! The harness: surroundings in memory whose filters obey the request's own headers, and servers that do as the path says.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use mirrord_filters::{BodyDecision, ConnectionParts, Edit, LocalResponse, RequestParts, ResponseDecision, ResponseParts, Side};
use tokio::{
    io::{AsyncWriteExt, DuplexStream, duplex},
    sync::Notify,
    task::{JoinHandle, LocalSet, spawn_local},
    time::timeout,
};

use crate::gateway::{
    http2::serve,
    steer::{Connecting, Event, Flow, Follow, Plan, SessionId, Steered, Steering, Surroundings, Target, Upstream},
};

type Server = Rc<dyn Fn(DuplexStream)>;
/// Goes on from what the request's headers say.
type Filter = Box<dyn Fn(&RequestParts<'_>, Steering) -> Steered>;

/// Everything around the connection.
#[derive(Default)]
pub struct World {
    pub pod: RefCell<Option<Server>>,
    pub sessions: RefCell<HashMap<SessionId, Server>>,
    pub events: RefCell<Vec<Event>>,
    /// What servers saw: `name: text`.
    pub log: Rc<RefCell<Vec<String>>>,
    /// Body bytes that servers' handlers got rid of.
    pub sent: Rc<Cell<usize>>,
    /// Lets handlers of `/held` paths go on.
    pub go: Rc<Notify>,
    pub opened: Cell<usize>,
    /// A filter that has more to say than the request's own headers.
    pub filter: RefCell<Option<Filter>>,
}

impl World {
    /// A pod and two sessions that all serve HTTP/2.
    pub fn new() -> Rc<Self> {
        let world = Rc::new(World::default());
        *world.pod.borrow_mut() = Some(world.h2("pod"));
        for session in [1, 2] {
            let server = world.h2(if session == 1 { "one" } else { "two" });
            world.sessions.borrow_mut().insert(session, server);
        }
        world
    }

    /// A real server.
    pub fn h2(self: &Rc<Self>, name: &'static str) -> Server {
        let world = Rc::downgrade(self);
        Rc::new(move |io| {
            if let Some(world) = world.upgrade() {
                spawn_local(serve_h2(world, name, io));
            }
        })
    }

    /// A program that answers the preface with these bytes and closes.
    pub fn says(bytes: &'static [u8]) -> Server {
        Rc::new(move |mut io: DuplexStream| {
            spawn_local(async move {
                let mut preface = [0; 24];
                let _ = tokio::io::AsyncReadExt::read_exact(&mut io, &mut preface).await;
                let _ = io.write_all(bytes).await;
            });
        })
    }

    /// A program that takes connections and says nothing.
    pub fn stopped() -> Server {
        let kept = RefCell::new(Vec::new());
        Rc::new(move |io| kept.borrow_mut().push(io))
    }

    /// Connects a client whose connection is served, with the pod's connection opened eagerly.
    pub async fn client(self: &Rc<Self>) -> Client {
        let mut builder = client::Builder::new();
        // Tests read streams one after the other: those that wait must not use up the window.
        builder.initial_max_send_streams(100).initial_connection_window_size(64 << 20);
        let (near, far) = duplex(64 << 10);
        let served = self.serve(far).await;
        let (sender, connection) = builder.handshake(near).await.unwrap();
        let connection = spawn_local(connection);
        Client { sender, connection, served }
    }

    pub async fn serve(self: &Rc<Self>, far: DuplexStream) -> JoinHandle<()> {
        self.serve_early(far, Vec::new()).await
    }

    pub async fn serve_early(self: &Rc<Self>, far: DuplexStream, early: Vec<u8>) -> JoinHandle<()> {
        let flow = Flow { client: "10.0.0.9:1234".parse().unwrap(), destination: "10.0.0.1:80".parse().unwrap() };
        let pod = self.open(&flow, Upstream::Pod).await.ok();
        spawn_local(serve(self.clone(), flow, far, early, pod, Vec::new()))
    }

    pub fn saw(&self, line: &str) -> bool {
        self.log.borrow().iter().any(|seen| seen == line)
    }

    pub fn count_of(&self, line: &str) -> usize {
        self.log.borrow().iter().filter(|seen| *seen == line).count()
    }

    fn note(&self, name: &str, text: impl AsRef<str>) {
        self.log.borrow_mut().push(format!("{name}: {}", text.as_ref()));
    }
}

/// A client and the two ends of its connection. Dropping it closes the connection.
pub struct Client {
    pub sender: client::SendRequest<Bytes>,
    pub connection: JoinHandle<Result<(), h2::Error>>,
    pub served: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A filter that marks responses.
#[derive(Debug)]
struct Watcher;

impl Follow for Watcher {
    fn window(&self, _: Side) -> Option<usize> {
        None
    }

    fn may_replace(&self, _: Side) -> bool {
        false
    }

    fn on_body(&mut self, _: Side, _: &[u8], _: bool) -> BodyDecision {
        BodyDecision::default()
    }

    fn wants_response(&self) -> bool {
        true
    }

    fn on_response(&mut self, response: &ResponseParts<'_>) -> ResponseDecision {
        let edit = Edit::Append { name: b"x-watched".to_vec(), value: response.status.to_string().into_bytes() };
        ResponseDecision { edits: vec![edit], ..ResponseDecision::default() }
    }
}

impl Surroundings for World {
    type Stream = DuplexStream;

    fn plan(&self, _: &Flow) -> Plan {
        Plan::Read
    }

    /// `x-to` names a session or `respond`, `x-copy` sessions, `x-edit` asks for edits, `x-watch` to see the response.
    fn steer(self: &Rc<Self>, flow: &Flow, request: &RequestParts<'_>) -> Steered {
        assert_eq!(flow.client, "10.0.0.9:1234".parse::<SocketAddr>().unwrap());
        let mut steering = Steering::default();
        for header in request.headers {
            let value = std::str::from_utf8(header.value).unwrap();
            match header.name {
                b"x-to" if value == "respond" => {
                    steering.target = Target::Respond(LocalResponse {
                        status: 418,
                        headers: vec![(b"x-by".to_vec(), b"filter".to_vec())],
                        body: vec![b'f'; 200_000],
                    });
                }
                b"x-to" => steering.target = Target::Session(value.parse().unwrap()),
                b"x-copy" => steering.copies = value.split(',').map(|session| session.parse().unwrap()).collect(),
                b"x-edit" => {
                    let edit = |name: &str, value: &str| Edit::Set { name: name.into(), value: value.into() };
                    let extra = steering.extra.get_or_insert_default();
                    extra.request_edits =
                        vec![edit("x-added", "by filter"), edit("host", "edited"), Edit::Remove { name: b"x-edit".to_vec() }];
                    extra.response_edits = vec![edit("x-mark", "stolen"), edit("Connection", "close")];
                }
                b"x-watch" => steering.extra.get_or_insert_default().follow = Some(Box::new(Watcher)),
                b":authority" => assert_eq!(request.headers.last().unwrap().name, b":authority"),
                _ => {}
            }
        }
        match &*self.filter.borrow() {
            Some(filter) => filter(request, steering),
            None => Steered::Decided(steering),
        }
    }

    fn connection(&self, _: &Flow, _: &ConnectionParts<'_>) -> Connecting {
        Connecting::default()
    }

    fn refuse_ambiguous(&self, _: &Flow) -> bool {
        false
    }

    fn open(self: &Rc<Self>, _: &Flow, upstream: Upstream) -> impl Future<Output = io::Result<DuplexStream>> + 'static {
        self.opened.set(self.opened.get() + 1);
        let server = match upstream {
            Upstream::Pod => self.pod.borrow().clone(),
            Upstream::Session(session) => self.sessions.borrow().get(&session).cloned(),
        };
        async move {
            let server = server.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (near, far) = duplex(64 << 10);
            server(far);
            Ok(near)
        }
    }

    fn count(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }
}

async fn serve_h2(world: Rc<World>, name: &'static str, io: DuplexStream) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(300);
    if name == "pod" {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
    while let Some(accepted) = connection.accept().await {
        let Ok((request, respond)) = accepted else { break };
        match request.uri().path() {
            "/goaway" => connection.graceful_shutdown(),
            "/goaway-hard" => {
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                continue;
            }
            // The program dies: its socket closes under whatever is open.
            "/die" => return,
            _ => {}
        }
        spawn_local(handle(world.clone(), name, request, respond));
    }
    world.note(name, "closed");
}

/// Does what the path says.
async fn handle(world: Rc<World>, name: &'static str, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Option<()> {
    let (parts, mut body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    world.note(name, format!("{} {path}", parts.method));
    let response = Response::builder().header("x-server", name);
    match path.split('/').nth(1)? {
        // The body and its trailers come back as they come.
        "echo" => {
            let mut to = respond.send_response(response.body(()).ok()?, false).ok()?;
            while let Some(data) = body.data().await {
                let data = match data {
                    Ok(data) => data,
                    Err(error) => {
                        world.note(name, format!("reset by {:?}", error.reason()));
                        return None;
                    }
                };
                send(&mut to, data.clone()).await?;
                let _ = body.flow_control().release_capacity(data.len());
            }
            match body.trailers().await.ok()? {
                Some(trailers) => to.send_trailers(trailers).ok()?,
                None => to.send_data(Bytes::new(), true).ok()?,
            }
        }
        // Counts the body, once it may: at once, held, or held only by the server of that name.
        "count" | "held" => {
            if path.starts_with("/held") && path.split('/').nth(2).is_none_or(|who| who == name) {
                world.go.notified().await;
            }
            let mut size = 0;
            while let Some(data) = body.data().await {
                let Ok(data) = data else {
                    world.note(name, "count: reset");
                    return None;
                };
                size += data.len();
                let _ = body.flow_control().release_capacity(data.len());
            }
            world.note(name, format!("counted {size}"));
            let mut to = respond.send_response(response.body(()).ok()?, false).ok()?;
            send(&mut to, size.to_string().into()).await?;
            to.send_data(Bytes::new(), true).ok()?;
        }
        "big" => {
            let size: usize = path.split('/').nth(2)?.parse().ok()?;
            let mut to = respond.send_response(response.header("content-length", size).body(()).ok()?, false).ok()?;
            for chunk in (0..size).step_by(16 << 10).map(|at| (16 << 10).min(size - at)) {
                send(&mut to, vec![b'b'; chunk].into()).await?;
                world.sent.set(world.sent.get() + chunk);
            }
            to.send_data(Bytes::new(), true).ok()?;
        }
        "hints" => {
            respond.send_informational(Response::builder().status(103).header("link", "</a.css>").body(()).ok()?).ok()?;
            let mut to = respond.send_response(response.body(()).ok()?, false).ok()?;
            to.send_data(Bytes::from_static(b"after hints"), true).ok()?;
        }
        "trailers-only" => {
            respond.send_response(response.header("grpc-status", "12").body(()).ok()?, true).ok()?;
        }
        "reset" => respond.send_reset(Reason::from(path.split('/').nth(2)?.parse::<u32>().ok()?)),
        "reset-midway" => {
            let mut to = respond.send_response(response.body(()).ok()?, false).ok()?;
            send(&mut to, Bytes::from_static(b"half")).await?;
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            to.send_reset(Reason::INADEQUATE_SECURITY);
        }
        // Never answers; notes how the client gives up.
        "never" => {
            let reason = poll_fn(|cx| respond.poll_reset(cx)).await.ok()?;
            world.note(name, format!("given up {reason:?}"));
        }
        "headers" => {
            let added = parts.headers.get("x-added").map_or("none", |value| value.to_str().unwrap()).to_owned();
            let mut to = respond.send_response(response.header("connection-like", "kept").body(()).ok()?, false).ok()?;
            let text =
                format!("{added} {} {}", parts.uri.authority().map_or("", |host| host.as_str()), parts.headers.contains_key("x-edit"));
            to.send_data(text.into(), true).ok()?;
        }
        // Answers in full without reading the body.
        "early" => {
            let mut to = respond.send_response(response.status(413).body(()).ok()?, false).ok()?;
            to.send_data(Bytes::from_static(b"too much"), true).ok()?;
        }
        _ => {
            let mut to = respond.send_response(response.body(()).ok()?, false).ok()?;
            to.send_data(name.into(), true).ok()?;
        }
    }
    Some(())
}

pub async fn send(to: &mut SendStream<Bytes>, mut data: Bytes) -> Option<()> {
    while !data.is_empty() {
        to.reserve_capacity(data.len());
        if to.capacity() == 0 {
            poll_fn(|cx| to.poll_capacity(cx)).await?.ok()?;
        }
        let part = data.split_to(to.capacity().min(data.len()));
        to.send_data(part, false).ok()?;
    }
    Some(())
}

/// A response read to its end.
#[derive(Debug)]
pub struct Got {
    pub head: http::response::Parts,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Got {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

pub fn get(path: &str, headers: &[(&'static str, &str)]) -> Request<()> {
    request("GET", path, headers)
}

pub fn post(path: &str, headers: &[(&'static str, &str)]) -> Request<()> {
    request("POST", path, headers)
}

fn request(method: &str, path: &str, headers: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(format!("http://shop{path}")).body(()).unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
    }
    request
}

/// Sends a request without a body and reads the response.
pub async fn fetch(client: &Client, request: Request<()>) -> Result<Got, h2::Error> {
    let (response, _) = client.sender.clone().send_request(request, true)?;
    read(response).await
}

pub async fn read(response: client::ResponseFuture) -> Result<Got, h2::Error> {
    let (head, mut stream) = response.await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        body.extend_from_slice(&data);
        stream.flow_control().release_capacity(data.len())?;
    }
    Ok(Got { head, body, trailers: stream.trailers().await? })
}

/// Runs until nothing in memory has anything left to do.
pub async fn settle() {
    for _ in 0..5000 {
        tokio::task::yield_now().await;
    }
}

pub async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let waiting = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(Duration::from_secs(10), waiting).await.is_ok(), "never: {what}");
}

pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        timeout(Duration::from_secs(30), test).await.expect("the test hangs");
    });
}
