//! Steals the calls of a gRPC service, or of some of its methods.
//!
//! Config: `{"service": "shop.Cart", "methods": ["AddItem"]}`; see README.md.

use mirrord_filter_sdk::config::Fields;
use mirrord_filter_sdk::grpc::Call;
use mirrord_filter_sdk::{filter, Filter, Request, Verdict};

const EXAMPLE: &str = r#"{"service": "shop.Cart", "methods": ["AddItem", "Checkout"]}"#;

/// Whose calls are ours.
pub struct GrpcMethod {
    service: String,
    /// Nothing for all of them.
    methods: Option<Vec<String>>,
}

impl Filter for GrpcMethod {
    fn from_config(config: &[u8]) -> Result<Self, String> {
        let mut fields = Fields::read(config, EXAMPLE)?;
        let (service, methods) = (fields.text("service")?, fields.optional_texts("methods")?);
        fields.no_others()?;
        if service.is_empty() || service.contains('/') {
            return Err(fields.wrong("\"service\" is the package and the name, with dots and without slashes"));
        }
        if methods.as_ref().is_some_and(Vec::is_empty) {
            return Err(fields.wrong("\"methods\" is empty, which takes nothing; leave it out to take all"));
        }
        Ok(GrpcMethod { service, methods })
    }

    fn on_request(&mut self, request: &mut Request) -> Verdict {
        let Some(Call { service, method }) = Call::of(request) else { return Verdict::Pass };
        let wanted = self.methods.as_ref().is_none_or(|methods| methods.iter().any(|own| own == method));
        if service != self.service || !wanted {
            return Verdict::Pass;
        }
        request.reason(format!("a call of {service}/{method}"));
        Verdict::Steal
    }
}

filter!(GrpcMethod);

#[cfg(test)]
mod tests {
    use super::*;
    use mirrord_filter_sdk::testing;

    fn call(path: &str) -> testing::Request {
        testing::Request::new("POST", path).protocol("HTTP/2").header("content-type", "application/grpc+proto").header("te", "trailers")
    }

    #[test]
    fn the_services_methods_are_stolen() {
        let mut some = testing::configure::<GrpcMethod>(EXAMPLE).unwrap();
        let mut all = testing::configure::<GrpcMethod>(r#"{"service": "shop.Cart"}"#).unwrap();
        assert_eq!(call("/shop.Cart/AddItem").run(&mut some).verdict, Verdict::Steal);
        assert_eq!(call("/shop.Cart/List").run(&mut some).verdict, Verdict::Pass);
        let outcome = call("/shop.Cart/List").run(&mut all);
        assert_eq!((outcome.verdict, outcome.reason.as_deref()), (Verdict::Steal, Some("a call of shop.Cart/List")));
    }

    #[test]
    fn other_services_and_what_is_not_grpc_pass() {
        let mut all = testing::configure::<GrpcMethod>(r#"{"service": "shop.Cart"}"#).unwrap();
        for request in [
            call("/shop.CartX/List"),
            call("/Cart/List"),
            call("/shop.cart/List"),
            call("/shop.Cart"),
            call("/shop.Cart/"),
            testing::Request::get("/shop.Cart/List").header("content-type", "application/grpc"),
            testing::Request::new("POST", "/shop.Cart/List"),
            testing::Request::new("POST", "/shop.Cart/List").header("content-type", "application/grpc-web"),
        ] {
            assert_eq!(request.run(&mut all).verdict, Verdict::Pass);
        }
    }

    #[test]
    fn a_bad_config_is_refused() {
        for (config, says) in [
            (r#"{"service": "/shop.Cart/List"}"#, "without slashes"),
            (r#"{"service": "shop.Cart", "methods": []}"#, "leave it out"),
            (r#"{"service": "shop.Cart", "method": "List"}"#, "unknown field \"method\""),
        ] {
            let why = testing::configure::<GrpcMethod>(config).err().unwrap_or_default();
            assert!(why.contains(says) && why.contains(EXAMPLE), "{config}: {why}");
        }
    }
}
