//! Heads: what a filter is shown of a request or response, and what its edits make of it. Pure functions on `http`'s types.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
    uri::{Authority, PathAndQuery},
};
use mirrord_filters::{Edit, Field, LocalResponse, RequestParts, ResponseParts, Version};

use crate::gateway::steer::Flow;

/// Shows a request's head. `:authority` comes last, under that name: a `host` header need not be there in HTTP/2. `end`: no body
/// follows.
pub(super) fn with_request<B, R>(flow: &Flow, request: &Request<B>, end: bool, look: impl FnOnce(&RequestParts<'_>) -> R) -> R {
    let uri = request.uri();
    let mut headers = Vec::with_capacity(request.headers().len() + 1);
    headers.extend(request.headers().iter().map(field));
    if let Some(authority) = uri.authority() {
        headers.push(Field { name: b":authority", value: authority.as_str().as_bytes() });
    }
    look(&RequestParts {
        method: request.method().as_str().as_bytes(),
        path: uri.path_and_query().map_or("", |path| path.as_str()).as_bytes(),
        headers: &headers,
        client: flow.client,
        destination: flow.destination,
        version: Version::Http2,
        end,
    })
}

/// Shows a response's head.
pub(super) fn with_response<B, R>(response: &Response<B>, look: impl FnOnce(&ResponseParts<'_>) -> R) -> R {
    let headers: Vec<_> = response.headers().iter().map(field).collect();
    look(&ResponseParts { status: response.status().as_u16(), headers: &headers })
}

/// Shows trailers.
pub(super) fn with_fields<R>(fields: &HeaderMap, look: impl FnOnce(&[Field<'_>]) -> R) -> R {
    look(&fields.iter().map(field).collect::<Vec<_>>())
}

fn field<'a>((name, value): (&'a HeaderName, &'a HeaderValue)) -> Field<'a> {
    Field { name: name.as_str().as_bytes(), value: value.as_bytes() }
}

/// Edits a request's head. Where the client named the host as `:authority`, an edit of `host` is one of `:authority`.
pub(super) fn edit_request(request: &mut Request<()>, edits: &[Edit]) {
    for edit in edits {
        let is_host = edit.name().eq_ignore_ascii_case(b"host");
        match edit {
            Edit::Set { value, .. } if is_host && request.uri().authority().is_some() => {
                if let Ok(authority) = Authority::try_from(value.as_slice()) {
                    let mut parts = request.uri().clone().into_parts();
                    parts.authority = Some(authority);
                    if let Ok(uri) = Uri::from_parts(parts) {
                        *request.uri_mut() = uri;
                    }
                }
                if request.headers().contains_key(header::HOST) {
                    apply(request.headers_mut(), edit);
                }
            }
            _ => apply(request.headers_mut(), edit),
        }
    }
}

/// Has a request ask for something else. What cannot be a path in HTTP/2 changes nothing.
pub(super) fn set_path(request: &mut Request<()>, path: &[u8]) {
    let mut parts = request.uri().clone().into_parts();
    // CONNECT has none, an extended one has.
    if let (Some(_), Ok(path)) = (&parts.path_and_query, PathAndQuery::try_from(path)) {
        parts.path_and_query = Some(path);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}

/// Says how long a body is whose length a filter may have changed; `None`: that shows only at its end.
pub(super) fn set_length(headers: &mut HeaderMap, length: Option<usize>) {
    match length {
        Some(length) => headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length)),
        None => headers.remove(header::CONTENT_LENGTH),
    };
}

/// Edits a response's head, or trailers.
pub(super) fn edit_headers(headers: &mut HeaderMap, edits: &[Edit]) {
    for edit in edits {
        apply(headers, edit);
    }
}

fn apply(headers: &mut HeaderMap, edit: &Edit) {
    // What cannot be said in HTTP/2 is left out: it would make the whole message malformed.
    let Ok(name) = HeaderName::from_bytes(edit.name()) else { return };
    if is_connection_specific(&name) {
        return;
    }
    match edit {
        Edit::Set { value, .. } => {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.insert(name, value);
            }
        }
        Edit::Append { value, .. } => {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(name, value);
            }
        }
        Edit::Remove { .. } => {
            headers.remove(name);
        }
    }
}

/// RFC 9113 section 8.2.2.
fn is_connection_specific(name: &HeaderName) -> bool {
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE, PROXY_CONNECTION, KEEP_ALIVE].contains(name)
}

/// A filter's own answer as a message. The body is empty where the request or the status allow none.
pub(super) fn local_response(local: LocalResponse, method: &Method) -> (Response<()>, Bytes) {
    let mut response = Response::new(());
    let status = StatusCode::from_u16(local.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.status_mut() = status;
    for (name, value) in local.headers {
        apply(response.headers_mut(), &Edit::Append { name, value });
    }
    if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(local.body.len()));
    }
    let body = if *method == Method::HEAD { Bytes::new() } else { Bytes::from(local.body) };
    (response, body)
}

/// Our own answer when a session took a request and could not answer it.
pub(super) fn bad_gateway(why: &str) -> LocalResponse {
    LocalResponse {
        status: StatusCode::BAD_GATEWAY.as_u16(),
        headers: vec![(b"content-type".to_vec(), b"text/plain; charset=utf-8".to_vec())],
        body: format!("mirrord: the session that a filter gave this request to could not answer it: {why}\n").into_bytes(),
    }
}

/// Whether a request may be made once more (RFC 9110 section 9.2.2).
pub(super) fn is_idempotent(method: &Method) -> bool {
    method.is_idempotent()
}
