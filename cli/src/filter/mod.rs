//! `mirrord filter …`: everything about a filter but the session that it is for. What runs a filter here is what runs it in the
//! agent, the crate `mirrord-filters`.

pub mod args;
mod bench;
mod build;
mod check;
mod error;
mod module;
mod new;
pub mod project;
mod push;
mod replay;
mod requests;
mod test;
pub mod watch;

use std::process::ExitCode;

use args::FilterCommand;
pub use error::Failure;

use crate::console;

/// Does it; a failure is told to the user.
pub fn run(command: FilterCommand) -> ExitCode {
    let result = match command {
        FilterCommand::New(new) => new::new(&new),
        FilterCommand::Build(build) => project::find(build.folder.as_deref()).and_then(|project| build::build(&project)).map(|built| {
            console::out(&format!("{} ({})", built.display(), module::size(&built)));
        }),
        FilterCommand::Check(check) => check::check(&check),
        FilterCommand::Test(test) => return status(test::test(&test)),
        FilterCommand::Bench(bench) => bench::bench(&bench),
        FilterCommand::Push(push) => push::push(&push),
        FilterCommand::Watch(watch) => watch::watch(&watch),
    };
    status(result.map(|()| ExitCode::SUCCESS))
}

fn status(result: Result<ExitCode, Failure>) -> ExitCode {
    result.unwrap_or_else(|failure| {
        console::error(&failure, failure.help());
        ExitCode::from(failure.status())
    })
}
