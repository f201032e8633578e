//! `mirrord dump`: what passes, head and body as they are, but for credentials; it changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use mirrord_tests::{
    Pod,
    looking::Inspect,
    pod::{WEB, WEB_TOO},
};

#[test]
fn heads_and_bodies_are_printed_as_they_pass_and_credentials_are_not() {
    let pod = Pod::new();
    let dump = Inspect::command(&pod, &["dump", "-p", &WEB.to_string()], "inspecting ");
    assert!(!pod.redirects(WEB_TOO));
    let request = pod.request(pod.address(WEB), "POST", "/cart?token=abc");
    let request = request.with("x-shop: blue").with("authorization: Bearer s3cret").body(b"one line\n\x1b[2J another");
    assert_eq!(request.send().who(), "pod");
    let text = dump.wait_for(&["pod POST /cart"]);
    for part in ["\nPOST /cart?token=", "\nx-shop: blue\n", "\n\none line\n", "[2J another\n", "\n-- 200, "] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert!(!text.contains("s3cret") && !text.contains("abc") && !text.contains('\x1b'), "{text}");
    dump.end();
    pod.assert_pristine();
}
