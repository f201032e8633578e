//! Filters that decide by a request's head.

use mirrord_filters::{Limits, LocalResponse, RequestParts, Verdict, Version};

use crate::common::{Instance, fields, get, request};
use crate::{instance, module, set, verdict};

#[test]
fn jwt_tenant_reads_and_verifies() {
    // {"org":{"id":"acme"},"tenant":"acme"}, HS256 with "secret"; the second one is signed with something else.
    let token =
        "Bearer eyJhbGciOiJIUzI1NiJ9.eyJvcmciOnsiaWQiOiJhY21lIn0sInRlbmFudCI6ImFjbWUifQ.G6niQep0TqFVNktyrkonYvNNU_avwqbAVPuehLXP5wg";
    let forged =
        "Bearer eyJhbGciOiJIUzI1NiJ9.eyJvcmciOnsiaWQiOiJhY21lIn0sInRlbmFudCI6ImFjbWUifQ.GnXGq1neSHenlnjhajjEqUVL5KrZElhHbk5PBWuGpvI";
    let mut reading = instance("jwt-tenant", r#"{"tenant": "acme", "claim": "/org/id"}"#);
    let mut checking = instance("jwt-tenant", r#"{"tenant": "acme", "secret": "secret"}"#);
    for (header, unchecked, checked) in
        [(token, Verdict::Steal, Verdict::Steal), (forged, Verdict::Steal, Verdict::Pass), ("Bearer a.b.c", Verdict::Pass, Verdict::Pass)]
    {
        assert_eq!(verdict(&mut reading, "/", &[("authorization", header)]), unchecked, "{header}");
        assert_eq!(verdict(&mut checking, "/", &[("authorization", header)]), checked, "{header}");
    }
}

#[test]
fn jwt_tenant_verifies_rsa_within_a_calls_time() {
    let pem = "\"-----BEGIN PUBLIC KEY-----\\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAsp15aNi1BgMhnc/IddMc\\n0cwJwGC3X91pKXuZ+9bxQLAMyXaeOCoK0m2E/I1gWOVlq+POIeaCRrMdXqwHhWE0\\n/8QiNdUgMSRH9tRj0pV9qm2XcvZaXt3tYExgX6lknT5RZyJMabqRlEt6Osg7p98V\\nu47hFvPUF1+nnKOKYSoQFZ0/K+ttibTn2Ps7+eejhGgqUA124v/YzMbafz/ophul\\nzndynQ6RqJaw2isPWNJh432DLc//xM3pTcn+C5FalcZUveUuwdXiWxSvcsjLcsk1\\n/L5Pt1F8JGMuAJVJCPLstctLixwJboSXYnbVGZytzCuYR94+POktbaQ/rKVkDR32\\nwQIDAQAB\\n-----END PUBLIC KEY-----\\n\"";
    // {"tenant":"acme","exp":4102444800}, RS256.
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJ0ZW5hbnQiOiJhY21lIiwiZXhwIjo0MTAyNDQ0ODAwfQ.ibUQW9B6JEmn0dungIdZH2g2DxP56YV5p_gBNBtwMdybA0C7sd3-9G8DgUzRdzit_WfdJm_U-50ZZM2o__vMW3CxxTOG2Yc1yDngEDHYCH2rKWH54PPTs3TuyZAEUEVzULImpsis_GO7QObiozkAIwUBxlaZ9t1GE2AUv5juW2tfcXGpoNemwosepIwTjdMDs5k8ZKMeSBl2pYwG_IMKyElOqgR2K4K4G1NyI6UYuT6cEm1jWyOwxqrozd-WwpgQVy1nqunJR2XpHa0urr8FRMYUwdBA-EXyKnp7jhLPXwiOwYQ1rNY1oM2sWfH5Fl5Mxbm8Ib2xBETKzWYdmAgaMw";
    let config = format!(r#"{{"tenant": "acme", "public_key": {pem}}}"#);
    let mine = format!("Bearer {token}");
    let mut by_pem = instance("jwt-tenant", &config);
    assert_eq!(verdict(&mut by_pem, "/", &[("authorization", &mine)]), Verdict::Steal);
    // Under the usual limits too; more than once, as the machine may be busy.
    let mut usual = Instance::of(&module("jwt-tenant").configure(config.as_bytes(), Limits::default()).unwrap());
    let stolen = |_| usual.on_request(&get(&fields(&[("authorization", &mine)]))).verdict == Verdict::Steal;
    assert!((0..9).any(stolen));
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("Bearer {signed}.B{}", &signature[1..]);
    assert_eq!(verdict(&mut by_pem, "/", &[("authorization", &forged)]), Verdict::Pass);
}

#[test]
fn jwt_tenant_passes_what_has_expired() {
    // RFC 7515, appendix A.2: the issuer takes the tenant's place. The signature fits; its time was in 2011.
    let jwk = r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#;
    let token = "Bearer eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    let config = |key: &str| format!(r#"{{"tenant": "joe", "claim": "/iss"{key}}}"#);
    assert_eq!(
        verdict(&mut instance("jwt-tenant", &config(&format!(r#", "jwk": {jwk}"#))), "/", &[("authorization", token)]),
        Verdict::Pass
    );
    assert_eq!(verdict(&mut instance("jwt-tenant", &config("")), "/", &[("authorization", token)]), Verdict::Steal);
}

#[test]
fn canary_takes_the_users_that_every_other_program_would_compute() {
    let mut half = instance("canary", r#"{"percent": 60, "key": "cookie:uid", "salt": "new-cart"}"#);
    // Places 5151 and 7838 of 10,000, as wasm-sdk/src/percent.rs has them.
    for (user, expected) in [("user-1", Verdict::Steal), ("user-2", Verdict::Pass)] {
        assert_eq!(verdict(&mut half, "/", &[("cookie", &format!("a=b; uid={user}"))]), expected, "{user}");
    }
    assert_eq!(verdict(&mut half, "/", &[]), Verdict::Pass);
}

#[test]
fn grpc_method_takes_calls_of_its_methods() {
    let mut instance = instance("grpc-method", r#"{"service": "shop.Cart", "methods": ["AddItem"]}"#);
    let headers = fields(&[("content-type", "application/grpc")]);
    for (path, expected) in
        [("/shop.Cart/AddItem", Verdict::Steal), ("/shop.Cart/List", Verdict::Pass), ("/shop.Carts/AddItem", Verdict::Pass)]
    {
        let call = RequestParts { version: Version::Http2, end: false, ..request("POST", path, &headers) };
        let decision = instance.on_request(&call);
        assert_eq!((decision.verdict, decision.fault), (expected, None), "{path}");
    }
}

#[test]
fn mock_answers() {
    let mut instance = instance(
        "mock",
        r#"{"mocks": [{"method": "GET", "path": "/stock/*", "status": 203, "headers": {"x-a": "b"}, "body": {"left": 3}}]}"#,
    );
    let headers = vec![(b"x-a".to_vec(), b"b".to_vec()), (b"content-type".to_vec(), b"application/json".to_vec())];
    let answer = LocalResponse { status: 203, headers, body: br#"{"left": 3}"#.to_vec() };
    assert_eq!(verdict(&mut instance, "/stock/7?x", &[]), Verdict::Respond(answer));
    assert_eq!(verdict(&mut instance, "/stoc", &[]), Verdict::Pass);
}

#[test]
fn baggage_marks_and_follows() {
    let mut entry = instance("baggage", r#"{"session": "me", "entry": {"header": "x-user", "value": "me"}, "then": "pass"}"#);
    let decision = entry.on_request(&get(&fields(&[("x-user", "me"), ("baggage", "region=eu")])));
    assert_eq!((decision.verdict, &*decision.request_edits), (Verdict::Pass, &[set("baggage", "mirrord-session=me,region=eu")][..]));
    let mut inside = instance("baggage", r#"{"session": "me"}"#);
    assert_eq!(verdict(&mut inside, "/", &[("baggage", "region=eu,mirrord-session=me")]), Verdict::Steal);
    assert_eq!(verdict(&mut inside, "/", &[("baggage", "mirrord-session=you")]), Verdict::Pass);
}
