//! gRPC on HTTP/2: which method a request calls, and the messages in a body.
//!
//! A body is a row of messages, each behind a flag byte and its length in four bytes (big-endian). Bodies come to a filter
//! window by window; [`Messages`] puts together what lies across their borders, within a limit.

use crate::Request;

/// What a request calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call<'a> {
    /// `package.Service`; the package may be missing.
    pub service: &'a str,
    /// `Method`.
    pub method: &'a str,
}

impl<'a> Call<'a> {
    /// From a request target: `/package.Service/Method`. Servers look at the last part as the method.
    pub fn from_path(path: &'a [u8]) -> Option<Self> {
        let (service, method) = std::str::from_utf8(path).ok()?.strip_prefix('/')?.rsplit_once('/')?;
        let valid = !service.is_empty() && !method.is_empty() && !method.contains('?');
        valid.then_some(Call { service, method })
    }

    /// The call that a request makes, if it is gRPC: a POST of `application/grpc` in any of its forms.
    pub fn of(request: &'a Request) -> Option<Self> {
        let grpc = request.method() == "POST" && request.header("content-type").is_some_and(is_grpc);
        grpc.then(|| Call::from_path(request.path()))?
    }

    /// The service's package, empty if it has none.
    pub fn package(&self) -> &'a str {
        self.service.rsplit_once('.').map_or("", |(package, _)| package)
    }
}

/// Is this the content type of gRPC (`application/grpc`, `application/grpc+proto`, …, not `application/grpc-web`)?
pub fn is_grpc(content_type: &[u8]) -> bool {
    let Some((start, rest)) = content_type.split_at_checked(b"application/grpc".len()) else { return false };
    start.eq_ignore_ascii_case(b"application/grpc") && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// By the algorithm that the header `grpc-encoding` names.
    pub compressed: bool,
    /// As it was sent.
    pub payload: &'a [u8],
}

/// Why a body cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// A flag byte is neither 0 nor 1.
    NotGrpc,
    /// A message is longer than the limit.
    TooLong,
}

/// Takes the first message from the front of `body`: the message and what follows it, or nothing while it is not
/// complete.
///
/// # Errors
/// What is no gRPC message, or one longer than `limit` bytes.
pub fn take(body: &[u8], limit: usize) -> Result<Option<(Message<'_>, &[u8])>, Problem> {
    let compressed = match body.first() {
        None => return Ok(None),
        Some(0) => false,
        Some(1) => true,
        Some(_) => return Err(Problem::NotGrpc),
    };
    let Some((head, rest)) = body.split_at_checked(5) else { return Ok(None) };
    let len = head.iter().skip(1).fold(0u64, |len, &byte| len << 8 | u64::from(byte));
    let len = usize::try_from(len).ok().filter(|&len| len <= limit).ok_or(Problem::TooLong)?;
    Ok(rest.split_at_checked(len).map(|(payload, after)| (Message { compressed, payload }, after)))
}

/// A message frame: to build a body, for instance of an answer.
pub fn frame(payload: &[u8]) -> Vec<u8> {
    // A body that a filter makes is far shorter than 4 GiB.
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    [&[0], &len.to_be_bytes()[..], payload].concat()
}

/// Messages from windows. It keeps the unfinished end of a window, at most `limit` + 5 bytes.
#[derive(Debug)]
pub struct Messages {
    kept: Vec<u8>,
    limit: usize,
    problem: Option<Problem>,
}

impl Messages {
    /// For messages of up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Messages { kept: Vec::new(), limit, problem: None }
    }

    /// Calls `each` with the messages that are complete now. After a problem every further window has that problem too.
    ///
    /// # Errors
    /// What is no gRPC body, or a message over the limit; messages before it have been seen.
    pub fn window(&mut self, window: &[u8], mut each: impl FnMut(Message<'_>)) -> Result<(), Problem> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let joined = if self.kept.is_empty() { None } else { Some([&*std::mem::take(&mut self.kept), window].concat()) };
        let mut rest = joined.as_deref().unwrap_or(window);
        loop {
            match take(rest, self.limit) {
                Ok(Some((message, after))) => {
                    each(message);
                    rest = after;
                }
                Ok(None) => break,
                Err(problem) => {
                    self.problem = Some(problem);
                    return Err(problem);
                }
            }
        }
        self.kept = rest.into();
        Ok(())
    }

    /// Does a message lack its end? To be asked after the last window.
    pub fn is_cut(&self) -> bool {
        !self.kept.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_service_and_method() {
        for (path, service, package, method) in [
            ("/google.pubsub.v2.PublisherService/CreateTopic", "google.pubsub.v2.PublisherService", "google.pubsub.v2", "CreateTopic"),
            ("/Greeter/SayHello", "Greeter", "", "SayHello"),
            ("/prefix/a.B/C", "prefix/a.B", "prefix/a", "C"),
        ] {
            let call = Call::from_path(path.as_bytes()).unwrap();
            assert_eq!((call.service, call.package(), call.method), (service, package, method));
        }
        for path in ["", "/", "/a", "a/b", "//", "/a/", "//b", "/a/b?c", "*"] {
            assert_eq!(Call::from_path(path.as_bytes()), None, "{path}");
        }
        assert_eq!(Call::from_path(b"/\xff/a"), None);
    }

    #[test]
    fn the_content_type_says_whether_it_is_grpc() {
        for yes in
            ["application/grpc", "application/grpc+proto", "application/grpc+json", "Application/GRPC", "application/grpc;charset=utf-8"]
        {
            assert!(is_grpc(yes.as_bytes()), "{yes}");
        }
        for no in ["", "application/json", "application/grpc-web", "application/grpc-web+proto", "application/grpcish", "text/plain"] {
            assert!(!is_grpc(no.as_bytes()), "{no}");
        }
    }

    /// A body cut into windows of every size gives the same messages.
    #[test]
    fn messages_lie_across_windows() {
        let body = [frame(b"one"), frame(b""), vec![1, 0, 0, 0, 2, 0xff, 0xfe], frame(&[7; 300])].concat();
        for size in 1..=body.len() {
            let (mut messages, mut seen) = (Messages::new(300), Vec::new());
            for window in body.chunks(size) {
                messages.window(window, |message| seen.push((message.compressed, message.payload.to_vec()))).unwrap();
            }
            assert_eq!(seen, [(false, b"one".to_vec()), (false, vec![]), (true, vec![0xff, 0xfe]), (false, vec![7; 300])], "{size}");
            assert!(!messages.is_cut());
        }
    }

    #[test]
    fn what_is_too_long_or_no_message_is_refused_at_its_head() {
        let mut messages = Messages::new(4);
        let mut seen = 0;
        assert_eq!(messages.window(&[frame(b"four"), frame(b"fives")].concat(), |_| seen += 1), Err(Problem::TooLong));
        assert_eq!((seen, messages.window(&frame(b"x"), |_| seen += 1)), (1, Err(Problem::TooLong)));
        assert_eq!(Messages::new(4).window(&[0, 0xff, 0xff, 0xff, 0xff], |_| ()), Err(Problem::TooLong));
        assert_eq!(Messages::new(4).window(b"{}", |_| ()), Err(Problem::NotGrpc));
        let mut cut = Messages::new(4);
        assert_eq!((cut.window(&[0, 0, 0], |_| ()), cut.is_cut()), (Ok(()), true));
    }
}
