//! `mirrord filter test`: requests through the filter, verdicts and what it changes printed, and held against what is expected.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use mirrord_filters::{Chain, Edit, LocalResponse, Verdict};

use super::{
    Failure,
    args::Test,
    module, project,
    replay::{self, Replayed},
    requests::{self, Expected, Recorded, VERDICTS},
};
use crate::console;

/// Longest piece of a body that is shown, bytes.
const SHOWN: usize = 300;

/// Whether all is as expected is told by the exit status.
pub fn test(test: &Test) -> Result<ExitCode, Failure> {
    let files = files(test)?;
    let loaded = module::load(&test.which)?;
    let mut chain = Chain::new(vec![loaded.filter]);
    let (mut counts, mut bad, mut judged, mut faults) = ([0_usize; VERDICTS.len()], 0, 0, 0);
    for file in &files {
        if files.len() > 1 && !test.quiet {
            console::out(&format!("{}:", file.display()));
        }
        for recorded in requests::read(file)? {
            let replayed = replay::replay(&mut chain, &recorded);
            let verdict = replay::name(&replayed.verdict);
            if let Some(count) = VERDICTS.iter().position(|one| *one == verdict) {
                counts[count] += 1;
            }
            let differences = differences(&recorded, &replayed);
            judged += usize::from(!recorded.expected.is_empty());
            bad += usize::from(!differences.is_empty());
            faults += usize::from(!replayed.faults.is_empty());
            if !test.quiet || !differences.is_empty() || !replayed.faults.is_empty() {
                console::out(&show(&recorded, &replayed, &differences));
            }
        }
    }
    console::out(&summary(counts, bad, judged, faults));
    Ok(if bad + faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The files that are named, else those of the project.
fn files(test: &Test) -> Result<Vec<PathBuf>, Failure> {
    if !test.requests.is_empty() {
        return Ok(test.requests.clone());
    }
    const HELP: &str = "name a file: --requests requests.http (or .jsonl, .har)";
    let project = match &test.which.filter {
        None => project::find(None)?,
        // The module lies in the project's build folder, or the folder itself was named.
        Some(filter) => [filter.parent().and_then(|folder| folder.parent()), Some(filter.as_path())]
            .into_iter()
            .flatten()
            .find_map(project::Project::at)
            .ok_or_else(|| Failure::usage("no requests were named", HELP))?,
    };
    let tests = project.folder.join("tests");
    let is_requests =
        |path: &PathBuf| path.extension().is_some_and(|ending| ["http", "rest", "jsonl", "ndjson", "har"].iter().any(|one| ending == *one));
    let mut files: Vec<_> =
        std::fs::read_dir(&tests).into_iter().flatten().flatten().map(|entry| entry.path()).filter(is_requests).collect();
    files.sort();
    if files.is_empty() {
        return Err(Failure::usage(format!("{} has no requests", tests.display()), HELP));
    }
    Ok(files)
}

fn summary(counts: [usize; VERDICTS.len()], bad: usize, judged: usize, faults: usize) -> String {
    let each: Vec<_> = VERDICTS.iter().zip(counts).filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}")).collect();
    let mut text = format!("{} requests: {}", counts.iter().sum::<usize>(), each.join(", "));
    if judged > 0 {
        let _ = write!(text, "; {} as expected, {bad} not", judged - bad);
    }
    if faults > 0 {
        let _ = write!(text, "; the filter failed on {faults}");
    }
    text
}

fn show(recorded: &Recorded, replayed: &Replayed, differences: &[String]) -> String {
    let request = format!("{} {}", recorded.method, recorded.path);
    let reason = replayed.reason.as_deref().unwrap_or_default();
    let mut text = format!("{:9} {:<40} {:17} {reason}", recorded.place, request, replay::name(&replayed.verdict));
    text.truncate(text.trim_end().len());
    if let Some(name) = &recorded.name {
        let _ = write!(text, "  [{name}]");
    }
    let mut line = |what: &str, line: String| {
        let _ = write!(text, "\n    {what:9} {}", console::plain(&line));
    };
    if let Some(path) = &replayed.path {
        line("path", format!("{} -> {}", recorded.path, String::from_utf8_lossy(path)));
    }
    replayed.request_edits.iter().for_each(|edit| line("request", edit_text(edit)));
    if let Some(body) = &replayed.request_body {
        line("request", format!("body: {} -> {}", body_text(&recorded.body), body_text(body)));
    }
    if let Some(delay) = replayed.delay {
        line("delay", format!("{} ms", delay.as_millis()));
    }
    if let Verdict::Respond(answer) = &replayed.verdict {
        line("answer", answer_text(answer));
    }
    replayed.response_edits.iter().for_each(|edit| line("response", edit_text(edit)));
    if let Some(answer) = &replayed.replaced {
        line("response", format!("replaced by {}", answer_text(answer)));
    }
    if let (Some(body), Some(response)) = (&replayed.response_body, &recorded.response) {
        line("response", format!("body: {} -> {}", body_text(&response.body), body_text(body)));
    }
    replayed.faults.iter().for_each(|fault| line("FAILED", fault.to_string()));
    differences.iter().for_each(|difference| line("EXPECTED", difference.clone()));
    text
}

fn edit_text(edit: &Edit) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match edit {
        Edit::Set { name, value } => format!("= {}: {}", text(name), text(value)),
        Edit::Append { name, value } => format!("+ {}: {}", text(name), text(value)),
        Edit::Remove { name } => format!("- {}", text(name)),
    }
}

fn answer_text(answer: &LocalResponse) -> String {
    let headers: Vec<_> = answer
        .headers
        .iter()
        .map(|(name, value)| format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
        .collect();
    format!("{} [{}] {}", answer.status, headers.join(", "), body_text(&answer.body))
}

fn body_text(body: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]).into_owned();
    if body.len() > SHOWN { format!("{shown}… ({} bytes)", body.len()) } else { shown }
}

/// What is not as expected.
fn differences(recorded: &Recorded, replayed: &Replayed) -> Vec<String> {
    let Expected { verdict, status, path, request_headers, response_headers } = &recorded.expected;
    let mut all = Vec::new();
    if let Some(verdict) = verdict.as_deref().filter(|verdict| *verdict != replay::name(&replayed.verdict)) {
        all.push(format!("verdict {verdict}, and it is {}", replay::name(&replayed.verdict)));
    }
    let answer = match &replayed.verdict {
        Verdict::Respond(answer) => Some(answer),
        _ => replayed.replaced.as_ref(),
    };
    if let Some(status) = status
        && answer.is_none_or(|answer| answer.status != *status)
    {
        all.push(format!("an answer with status {status}, and it is {}", answer.map_or("none".into(), |answer| answer.status.to_string())));
    }
    let path_now = replayed.path.as_deref().map_or_else(|| recorded.path.clone(), |path| String::from_utf8_lossy(path).into_owned());
    if let Some(path) = path.as_ref().filter(|path| **path != path_now) {
        all.push(format!("path {path}, and it is {path_now}"));
    }
    let request = replay::apply(&recorded.headers, &replayed.request_edits);
    let response = match answer {
        Some(answer) => answer
            .headers
            .iter()
            .map(|(name, value)| (String::from_utf8_lossy(name).into(), String::from_utf8_lossy(value).into()))
            .collect(),
        None => {
            let recorded = recorded.response.as_ref().map(|response| response.headers.as_slice()).unwrap_or_default();
            replay::apply(recorded, &replayed.response_edits)
        }
    };
    headers("request", request_headers, &request, &mut all);
    headers("response", response_headers, &response, &mut all);
    if !all.is_empty() {
        all.extend(recorded.lacks.map(str::to_owned));
    }
    all
}

fn headers(whose: &str, expected: &[(String, String)], there: &[(String, String)], all: &mut Vec<String>) {
    for (name, value) in expected {
        let mut values = there.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
        let is_met = if value.is_empty() { values.next().is_none() } else { values.any(|own| own == value) };
        if !is_met {
            let wanted = if value.is_empty() { format!("no {whose} header {name}") } else { format!("{whose} header {name}: {value}") };
            all.push(wanted);
        }
    }
}
