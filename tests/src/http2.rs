//! An HTTP/2 client with prior knowledge: many requests at once on one connection, bodies interleaved.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::HeaderMap;
use tokio::{net::TcpStream, runtime, task::JoinSet, time::timeout};

use crate::{netns::Handle, wait::PATIENCE};

/// One request of a bundle.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, …
    pub method: &'static str,
    /// The path, which also tells requests apart.
    pub path: String,
    /// With the header by which tests steal?
    pub mine: bool,
    /// Sent in pieces, so that bodies of many streams mix.
    pub body: Vec<u8>,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The request's path.
    pub path: String,
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as text.
    pub text: String,
    /// What came behind the body.
    pub trailers: HeaderMap,
}

/// Sends all requests at once on one connection; gives the answers in the order of the requests.
pub fn exchange(from: &Handle, to: SocketAddr, requests: Vec<Request>) -> Vec<Result<Response, String>> {
    from.run(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { timeout(PATIENCE * 2, all(to, requests)).await.unwrap_or_else(|_| vec![Err("too late".into())]) })
    })
}

async fn all(to: SocketAddr, requests: Vec<Request>) -> Vec<Result<Response, String>> {
    let stream = match TcpStream::connect(to).await {
        Ok(stream) => stream,
        Err(error) => return vec![Err(format!("connect: {error}"))],
    };
    let (client, connection) = match client::handshake(stream).await {
        Ok(pair) => pair,
        Err(error) => return vec![Err(format!("handshake: {error}"))],
    };
    let driver = tokio::spawn(connection);
    let mut tasks = JoinSet::new();
    let count = requests.len();
    for (index, request) in requests.into_iter().enumerate() {
        let client = client.clone();
        tasks.spawn(async move { (index, one(client, to, request).await) });
    }
    let mut answers = vec![Err("not answered".into()); count];
    while let Some(Ok((index, answer))) = tasks.join_next().await {
        answers[index] = answer;
    }
    driver.abort();
    answers
}

async fn one(client: SendRequest<Bytes>, to: SocketAddr, request: Request) -> Result<Response, String> {
    let failed = |what: &str, error: h2::Error| format!("{} {what}: {error}", request.path);
    let mut client = client.ready().await.map_err(|error| failed("not ready", error))?;
    let mut head = http::Request::builder().method(request.method).uri(format!("http://{to}{}", request.path));
    if request.mine {
        head = head.header("x-user", "me");
    }
    let (response, mut upload) =
        client.send_request(head.body(()).unwrap(), request.body.is_empty()).map_err(|error| failed("not sent", error))?;
    let mut pieces = request.body.chunks(1000).peekable();
    while let Some(piece) = pieces.next() {
        upload.send_data(Bytes::copy_from_slice(piece), pieces.peek().is_none()).map_err(|error| failed("body not sent", error))?;
        tokio::task::yield_now().await;
    }
    let response = response.await.map_err(|error| failed("not answered", error))?;
    let (head, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| failed("body cut", error))?;
        let _ = body.flow_control().release_capacity(data.len());
        bytes.extend(&data);
    }
    let trailers = body.trailers().await.map_err(|error| failed("no trailers", error))?.unwrap_or_default();
    Ok(Response {
        path: request.path,
        status: head.status.as_u16(),
        headers: head.headers,
        text: String::from_utf8_lossy(&bytes).into_owned(),
        trailers,
    })
}
