//! What every process says of itself, under the names that Prometheus' own libraries have.
//!
//! Source: <https://prometheus.io/docs/instrumenting/writing_clientlibs/>, "Process metrics".

use std::fmt::Write;

/// Fields of `/proc/self/stat` behind the process's name, which may hold anything. Source: `proc_pid_stat(5)`, whose third field is the first here.
struct Fields<'a>(Vec<&'a str>);

impl<'a> Fields<'a> {
    fn of(stat: &'a str) -> Option<Self> {
        Some(Self(stat.rsplit_once(')')?.1.split_whitespace().collect()))
    }
    /// A field by the number that it has in the manual.
    fn number(&self, field: usize) -> Option<f64> {
        self.0.get(field.checked_sub(3)?)?.parse().ok()
    }
}

/// All that can be read, as text.
pub fn text() -> String {
    let mut text = String::new();
    let mut say = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            // Writing to a String does not fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
    };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = Fields::of(&stat);
    let number = |field| fields.as_ref()?.number(field);
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let page = rustix::param::page_size() as f64;
    let booted = std::fs::read_to_string("/proc/stat").ok().and_then(|stat| stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok()));
    let descriptors = std::fs::read_dir("/proc/self/fd").ok().map(|list| list.count() as f64);
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.map(|most| most as f64);
    let spent = number(14).zip(number(15)).map(|(user, system)| (user + system) / ticks);
    say("process_cpu_seconds_total", "counter", "Time of processors that was used, in seconds", spent);
    say("process_max_fds", "gauge", "Files that may be open at once", most);
    say("process_open_fds", "gauge", "Files that are open", descriptors);
    say("process_resident_memory_bytes", "gauge", "Memory that is really there, in bytes", number(24).map(|pages| pages * page));
    let started = number(22).zip(booted).map(|(since_boot, booted)| booted + since_boot / ticks);
    say("process_start_time_seconds", "gauge", "When the process started, in seconds since 1970", started);
    say("process_virtual_memory_bytes", "gauge", "Memory that has addresses, in bytes", number(23));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(page: &str, name: &str) -> f64 {
        page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).unwrap_or_else(|| panic!("{name} is not in {page}"))
    }

    #[test]
    fn this_process_says_what_it_uses() {
        let page = text();
        assert!(value(&page, "process_resident_memory_bytes") > 100_000.0);
        assert!(value(&page, "process_virtual_memory_bytes") >= value(&page, "process_resident_memory_bytes"));
        assert!(value(&page, "process_open_fds") >= 3.0 && value(&page, "process_open_fds") < value(&page, "process_max_fds"));
        assert!(value(&page, "process_cpu_seconds_total") >= 0.0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - value(&page, "process_start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "{age}");
    }

    #[test]
    fn a_name_with_brackets_and_spaces_moves_no_field() {
        let fields = Fields::of("7 (a) b (c) S 1 2 3").unwrap();
        assert_eq!((fields.number(4), fields.number(6), fields.number(7)), (Some(1.0), Some(3.0), None));
    }
}
