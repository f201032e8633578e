//! `GET /v1/explain`: the workers' last decisions, and with `follow` those to come. Whose they are is looked up here.
//!
//! `workers --Kept--> control --ExplainLine--> whoever asked`

use std::{
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::Response;
use mirrord_protocol::records::{ExplainLine, MAX_LAST, SetAside};
use tokio::sync::mpsc;

use super::events::{Reply, line};
use crate::{
    app::App,
    records::decisions::{News, Query},
};

/// Decisions that wait for whoever follows; more are counted as missed.
const NEWS_ROOM: usize = 1024;
/// Without `last`.
const LAST: usize = 20;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Question {
    query: Query,
    follow: bool,
}

impl Question {
    /// Reads a request's query; what is not known is for a newer agent.
    pub fn of(query: &str) -> Result<Self, String> {
        let mut question = Question { query: Query { last: LAST, ..Query::default() }, follow: false };
        for field in query.split('&').filter(|field| !field.is_empty()) {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            let number = || value.parse::<u64>().map_err(|_| format!("{name} is `{value}`, which is no number"));
            match name {
                "last" => question.query.last = usize::try_from(number()?).unwrap_or(MAX_LAST).min(MAX_LAST),
                "id" => question.query.id = Some(number()?),
                "picked" => question.query.picked = true,
                "follow" => question.follow = true,
                _ => {}
            }
        }
        Ok(question)
    }
}

/// Decisions to come.
pub struct Following {
    app: Rc<App>,
    first: VecDeque<Bytes>,
    /// `None`: nobody follows.
    news: Option<mpsc::Receiver<News>>,
}

/// Answers with lines.
pub async fn answer(app: &Rc<App>, question: Question) -> Response<Reply> {
    // Before what is kept is read: a decision comes twice rather than never, and is told once.
    let news = question.follow.then(|| {
        let (tx, rx) = mpsc::channel(NEWS_ROOM);
        app.follow(tx, question.query.picked);
        rx
    });
    let mut kept = app.decisions(question.query).await;
    kept.sort_by_key(|kept| (kept.at, kept.id));
    kept.drain(..kept.len().saturating_sub(question.query.last));
    let aside = set_aside(app).into_iter().map(ExplainLine::SetAside);
    let decisions = kept.iter().map(|kept| ExplainLine::Decision(app.names.borrow().decision(kept)));
    let first = aside.chain(decisions).filter_map(|told| line(&told)).collect();
    Response::new(Reply::Decisions(Following { app: app.clone(), first, news }))
}

/// Filters that are set aside now.
fn set_aside(app: &App) -> Vec<SetAside> {
    let sessions = app.sessions.borrow();
    let filters = sessions.iter().flat_map(|session| session.spec.filters.iter().map(|filter| (session.spec.id, filter)));
    let aside = filters.filter_map(|(session, filter)| {
        let left = filter.set_aside_for()?;
        Some(SetAside { session, filter: filter.name().to_owned(), tried_again_in: left.as_millis() as u64 })
    });
    aside.collect()
}

impl Following {
    pub fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(first) = self.first.pop_front() {
            return Poll::Ready(Some(first));
        }
        let Some(news) = &mut self.news else { return Poll::Ready(None) };
        let told = match ready!(Pin::new(news).poll_recv(cx)) {
            Some(News::Decision(kept)) => ExplainLine::Decision(self.app.names.borrow().decision(&kept)),
            Some(News::Missed(count)) => ExplainLine::Missed(count),
            None => return Poll::Ready(None),
        };
        Poll::Ready(line(&told))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_from_its_query() {
        let query = |last, id, picked| Query { last, id, picked };
        assert_eq!(Question::of(""), Ok(Question { query: query(20, None, false), follow: false }));
        let all = Question::of("last=3&id=7&picked&follow&later=x");
        assert_eq!(all, Ok(Question { query: query(3, Some(7), true), follow: true }));
        assert_eq!(Question::of("last=999999999").unwrap().query.last, MAX_LAST);
        assert_eq!(Question::of("id=x"), Err("id is `x`, which is no number".to_owned()));
    }
}
