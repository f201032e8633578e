//! Steals the requests of one user.
//!
//! Config: the user's name as it stands in the header `x-user`; without a config it is `me`.

use mirrord_filter_sdk::{filter, Filter, Request, Verdict};

pub struct Mine {
    user: String,
}

impl Filter for Mine {
    fn from_config(config: &[u8]) -> Result<Self, String> {
        let user = std::str::from_utf8(config).map_err(|error| format!("the config is not UTF-8: {error}"))?.trim();
        if user.len() > 255 {
            return Err("the config is the name of a user, at most 255 bytes".into());
        }
        Ok(Mine { user: if user.is_empty() { "me" } else { user }.into() })
    }

    fn on_request(&mut self, request: &mut Request) -> Verdict {
        if request.header("x-user") != Some(self.user.as_bytes()) {
            return Verdict::Pass;
        }
        request.reason("x-user is mine");
        request.set_response_header("x-answered-by", "my machine");
        Verdict::Steal
    }
}

filter!(Mine);

#[cfg(test)]
mod tests {
    use super::*;
    use mirrord_filter_sdk::testing;

    #[test]
    fn requests_of_the_user_are_stolen() {
        let mut mine = testing::configure::<Mine>("ann").unwrap();
        assert_eq!(testing::Request::get("/cart").header("X-User", "ann").run(&mut mine).verdict, Verdict::Steal);
        assert_eq!(testing::Request::get("/cart").header("X-User", "bob").run(&mut mine).verdict, Verdict::Pass);
    }
}
