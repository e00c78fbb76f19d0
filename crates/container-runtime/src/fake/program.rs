//! The few shell commands that a container of the fake runtime understands, enough for scripted tests and the contract suite.
//!
//! `sh -c "echo a; sleep 1; exit 3"` does what it says; whatever is not understood runs until it is stopped.

use std::time::Duration;

/// One thing a fake process does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Prints a line, to standard error where `error`.
    Print {
        /// The line, without its end.
        line: String,
        /// To standard error.
        error: bool,
    },
    /// Waits.
    Sleep(Duration),
    /// Copies standard input to standard output until it ends.
    CopyInput,
    /// Ends with this code.
    Exit(i32),
    /// Goes on until it is stopped.
    RunForever,
}

/// Reads a command line into steps; the last one is always `Exit` or `RunForever`.
#[must_use]
pub fn read(command: &[String], environment: &[(String, String)]) -> Vec<Step> {
    let name = |word: &str| word.rsplit('/').next().unwrap_or(word).to_owned();
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut steps = match words.as_slice() {
        [shell, "-c", script, ..] if matches!(name(shell).as_str(), "sh" | "bash") => {
            script.split([';', '\n']).map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect::<Vec<_>>()
        }
        _ => vec![command.to_vec()],
    }
    .iter()
    .filter(|line| !line.is_empty())
    .map(|line| step(line, environment))
    .collect::<Vec<_>>();
    if let Some(end) = steps.iter().position(|step| matches!(step, Step::Exit(_) | Step::RunForever)) {
        steps.truncate(end + 1);
    } else if steps.is_empty() {
        steps.push(Step::RunForever);
    } else {
        steps.push(Step::Exit(0));
    }
    // `true` and `false` end a process only where they are its last word.
    steps
}

fn step(line: &[String], environment: &[(String, String)]) -> Step {
    let Some((program, arguments)) = line.split_first() else { return Step::Exit(0) };
    match program.rsplit('/').next().unwrap_or(program) {
        "echo" => {
            let error = arguments.iter().any(|word| word == ">&2");
            let words = arguments.iter().filter(|word| *word != ">&2").map(|word| {
                let word = word.trim_matches(['"', '\'']);
                match word.strip_prefix('$') {
                    Some(variable) => environment.iter().rev().find(|(name, _)| name == variable).map(|(_, value)| value.clone()).unwrap_or_default(),
                    None => word.to_owned(),
                }
            });
            Step::Print { line: words.collect::<Vec<_>>().join(" "), error }
        }
        "sleep" => match arguments.first().and_then(|seconds| seconds.parse::<f64>().ok()).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
            Some(duration) => Step::Sleep(duration),
            None => Step::RunForever,
        },
        "cat" if arguments.is_empty() => Step::CopyInput,
        "exit" => Step::Exit(arguments.first().and_then(|code| code.parse().ok()).unwrap_or(0)),
        "true" => Step::Exit(0),
        "false" => Step::Exit(1),
        _ => Step::RunForever,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Vec<String> {
        line.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_shell_script_is_read_in_steps() {
        let steps = read(&words(&["/bin/sh", "-c", "echo a b >&2; sleep 0.5; exit 3; echo never"]), &[]);
        assert_eq!(
            steps,
            [Step::Print { line: "a b".into(), error: true }, Step::Sleep(Duration::from_millis(500)), Step::Exit(3)]
        );
    }

    #[test]
    fn an_unknown_program_runs_until_it_is_stopped() {
        assert_eq!(read(&words(&["nginx", "-g"]), &[]), [Step::RunForever]);
    }

    #[test]
    fn variables_come_from_the_environment() {
        let steps = read(&words(&["sh", "-c", "echo $NAME"]), &[("NAME".into(), "x".into())]);
        assert_eq!(steps.first(), Some(&Step::Print { line: "x".into(), error: false }));
    }
}
