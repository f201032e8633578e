//! An API server that cannot be reached while a session starts is asked again, as `startup_retry` in the config file says. What it
//! refuses is final; what is begun may be begun again, as agents that are there are joined.

use std::time::Duration;

use mirrord_config::kube::Retry;

use super::{error::KubeError, process::Progress};

/// Carries out a step of the start, again after pauses that double.
pub async fn patiently<T>(retry: &Retry, progress: &Progress, step: impl AsyncFn() -> Result<T, KubeError>) -> Result<T, KubeError> {
    let mut pauses = pauses(retry);
    loop {
        match (step().await, pauses.next()) {
            (Err(error @ KubeError::Unreachable(_)), Some(pause)) => {
                progress.detail(&format!("{error}; again in {:.1} s", pause.as_secs_f32()));
                tokio::time::sleep(pause).await;
            }
            (done, _) => return done,
        }
    }
}

fn pauses(retry: &Retry) -> impl Iterator<Item = Duration> {
    let (shortest, longest) = (u64::from(retry.min_ms), u64::from(retry.max_ms.max(retry.min_ms)));
    (0..retry.max_retries).map(move |at| Duration::from_millis((shortest << at.min(20)).min(longest)))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn quick(max_retries: u32) -> Retry {
        Retry { min_ms: 1, max_ms: 2, max_retries }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let list = |retry: Retry| pauses(&retry).map(|pause| pause.as_millis()).collect::<Vec<_>>();
        assert_eq!(list(Retry { min_ms: 500, max_ms: 3000, max_retries: 5 }), [500, 1000, 2000, 3000, 3000]);
        assert_eq!(list(Retry { max_retries: 0, ..Retry::default() }), []);
        assert_eq!(list(Retry::default()), [500, 1000]);
    }

    #[tokio::test]
    async fn only_what_cannot_be_reached_is_asked_again() {
        let tries = Cell::new(0);
        let unreachable = async || {
            tries.set(tries.get() + 1);
            if tries.get() < 3 { Err(KubeError::Unreachable("down".into())) } else { Ok(7) }
        };
        assert_eq!(patiently(&quick(2), &Progress, unreachable).await.unwrap(), 7);
        tries.set(0);
        assert!(matches!(patiently(&quick(1), &Progress, unreachable).await, Err(KubeError::Unreachable(_))));
        tries.set(0);
        let refused = async || {
            tries.set(tries.get() + 1);
            Err::<(), _>(KubeError::Config("bad".into()))
        };
        assert!(patiently(&quick(5), &Progress, refused).await.is_err());
        assert_eq!(tries.get(), 1);
    }
}
