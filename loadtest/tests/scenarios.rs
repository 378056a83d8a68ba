//! The tool as a program, against a server that does what it is told to.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

mod common;

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Fault, serve};

fn tool() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tidegate-loadtest"))
}

fn run(arguments: &str) -> Output {
    tool().args(arguments.split_whitespace()).output().unwrap()
}

/// What a sound run prints.
fn sound(arguments: &str) -> String {
    let output = run(arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments}: {text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("  sound: none"), "{text}");
    text
}

/// A name for a file of one test.
fn file(name: &str) -> PathBuf {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_file(&file);
    file
}

#[test]
fn every_scenario_of_one_server_is_sound_in_one_process() {
    every_scenario(1);
}

#[test]
fn every_scenario_of_one_server_is_sound_in_three_processes() {
    every_scenario(3);
}

fn every_scenario(processes: u32) {
    let url = serve(Fault::None);
    let common = format!("--url {url} --pid {} --processes {processes}", std::process::id());
    let text = sound(&format!("fanout {common} --subscribers 7 --messages 40 --in-flight 4"));
    let mut rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert!(rows.any(|row| row == ["deliveries", "280"]), "{text}");
    sound(&format!("rooms {common} --rooms 5 --members 3 --seconds 0.3 --warm-up 0.1"));
    sound(&format!("acks {common} --connections 5 --in-flight 2 --seconds 0.3 --warm-up 0.1 --data {{}}"));
    sound(&format!("churn {common} --at-once 5 --room a --stay 5 --seconds 0.3 --warm-up 0.1"));
    sound(&format!("churn {common} --at-once 5 --rate 50 --seconds 0.3 --warm-up 0"));
    let text = sound(&format!("slow {common} --subscribers 6 --stalled 2 --rate 50 --seconds 1 --bytes 200"));
    assert!(text.contains("Of 2 stalled connections 2: still open."), "{text}");
    sound(&format!("crossnode {common} --url {url} --subscribers 5 --messages 20"));
    sound(&format!("crossnode {common} --url {url} --subscribers 5 --messages 20 --rate 200"));
}

#[test]
fn idle_connections_are_counted_by_the_memory_of_their_server() {
    let url = serve(Fault::None);
    let text = sound(&format!("idle --url {url} --pid {} --connections 20", std::process::id()));
    assert!(text.contains("resident bytes per connection"), "{text}");
}

#[test]
fn what_comes_twice_makes_a_run_fail_and_is_named() {
    let url = serve(Fault::Repeats(25));
    for processes in [1, 2] {
        let output =
            run(&format!("fanout --url {url} --subscribers 3 --messages 20 --processes {processes}"));
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("NOT SOUND: 3 repeated"), "{text}");
    }
}

#[test]
fn what_is_lost_or_out_of_order_makes_a_run_fail_and_is_named() {
    // In a closed loop, where those that follow leave all the same, and at a rate; by one process and by two.
    let cases = [
        (Fault::Loses(25), "fanout --messages 40 --in-flight 8", "3 missing"),
        (Fault::Loses(25), "crossnode --messages 40 --rate 100 --processes 2", "3 missing"),
        (Fault::Swaps(25), "fanout --messages 40 --in-flight 8", "3 late"),
        (Fault::Swaps(25), "fanout --messages 40 --in-flight 8 --processes 2", "3 late"),
        (Fault::Swaps(25), "crossnode --messages 40 --rate 100", "3 late"),
    ];
    std::thread::scope(|scope| {
        for (fault, arguments, reason) in cases {
            scope.spawn(move || {
                let url = serve(fault);
                let output = run(&format!("{arguments} --url {url} --url {url} --subscribers 3 --warm-up 0"));
                let text = String::from_utf8_lossy(&output.stdout);
                assert_eq!(output.status.code(), Some(1), "{arguments}: {text}");
                let told = text.lines().find_map(|line| line.strip_prefix("  NOT SOUND: "));
                assert_eq!(told, Some(reason), "{arguments}: {text}");
            });
        }
    });
}

#[test]
fn refusals_make_a_run_fail() {
    let url = serve(Fault::Refuses);
    let output = run(&format!("acks --url {url} --connections 2 --seconds 0.1 --warm-up 0"));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("refused or unanswered"));
    assert!(String::from_utf8_lossy(&output.stderr).contains(r#"the answer was [{"ok":false}]"#));
    let output = run(&format!("fanout --url {url} --subscribers 2 --messages 2"));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("publish was refused"));
}

/// Waits for what must come soon.
fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// A run of a minute, and its two worker processes.
fn long_run() -> (Child, Vec<String>) {
    let url = serve(Fault::None);
    let arguments = format!("acks --url {url} --connections 4 --seconds 60 --processes 2");
    let mut running = tool();
    running.args(arguments.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let running = running.spawn().unwrap();
    let file = format!("/proc/{0}/task/{0}/children", running.id());
    let workers = soon("no workers have begun", || {
        let found = std::fs::read_to_string(&file).unwrap();
        let found: Vec<String> = found.split_whitespace().map(str::to_owned).collect();
        (found.len() == 2).then_some(found)
    });
    (running, workers)
}

#[test]
fn workers_end_with_their_run() {
    let (mut running, workers) = long_run();
    running.kill().unwrap();
    running.wait().unwrap();
    for worker in workers {
        // Where nobody collects orphans what is left of it has no command line.
        let is_gone =
            || std::fs::read(format!("/proc/{worker}/cmdline")).map_or(true, |line| line.is_empty());
        soon("a worker is still there", || is_gone().then_some(()));
    }
}

#[test]
fn a_worker_that_dies_ends_the_run() {
    let (running, workers) = long_run();
    assert!(Command::new("kill").args(["-KILL", &workers[0]]).status().unwrap().success());
    let output = running.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("worker process") && told.contains("ended before the run did"), "{told}");
}

#[test]
fn a_file_is_run_recorded_drawn_and_compared() {
    let url = serve(Fault::None);
    let [scenario, record, page, bars] = ["s.toml", "r.jsonl", "r.html", "c.html"].map(file);
    std::fs::write(&scenario, "scenario = 'fanout'\nsubscribers = 2\nmessages = 5\n").unwrap();
    for label in ["ours", "stock"] {
        sound(&format!(
            "run {} --url {url} --label {label} --messages 9 --json {} --report {}",
            scenario.display(),
            record.display(),
            page.display()
        ));
    }
    let lines = std::fs::read_to_string(&record).unwrap();
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((&first["label"], &first["figures"]["deliveries"]), (&"ours".into(), &18.0.into()));
    let drawn = std::fs::read_to_string(&page).unwrap();
    assert!(drawn.contains("data-plot=\"percentiles\"") && drawn.contains("stock"));
    let output = run(&format!("compare {} --report {}", record.display(), bars.display()));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("fanout, subscribers 2, bytes 100, in flight 1") && text.contains(" x stock"),
        "{text}"
    );
    assert!(std::fs::read_to_string(&bars).unwrap().contains("class=\"bar\""));

    std::fs::write(&scenario, "scenario = 'fanout'\nsubscriber = 2\n").unwrap();
    let output = run(&format!("run {} --url {url}", scenario.display()));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("the key `subscriber` is no setting of `fanout`")
    );
}
