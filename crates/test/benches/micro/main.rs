//! What single steps cost: the codec, the adapter's envelope, the hub, the outbox and the fan-out.
//!
//! Each step is counted and timed. The count of instructions is what to compare: on a busy machine, too, it is the same
//! give or take one per cent. It knows nothing of the kernel and of caches, and a long copy is an instruction a byte to
//! it; the time knows all of that, and is of this machine and this minute. In both there is the loop around a step, which
//! is the first row, and the dropping of what the step has made.
//!
//! The harness is our own because the usual ones fit worse. Criterion's statistics want a machine that is left alone, and
//! cargo builds a dev-dependency, with the twenty that this one brings, for every `cargo test`. iai-callgrind wants a
//! program of its own version installed besides. What they would do for us is little: callgrind, which counts, writes its
//! count down whenever one function ends (`meter`).

mod event;
mod meter;
mod steps;

use std::process::ExitCode;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Cargo adds the flag.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let first = arguments.next().unwrap_or_default();
    if first == meter::COUNTED {
        steps::run(&mut meter::Counted::new(arguments.next().unwrap_or_default()));
        return ExitCode::SUCCESS;
    }
    let mut timed = meter::Timed::new(first.clone());
    steps::run(&mut timed);
    let counts = meter::count(&first);
    println!("| step | instructions | ns |\n|---|--:|--:|");
    for (at, (name, ns)) in timed.rows.iter().enumerate() {
        let count = counts.as_ref().map_or_else(|_| "-".to_owned(), |counts| format!("{:.0}", counts[at]));
        println!("| {name:<68} | {count:>12} | {ns:>9.0} |");
    }
    match counts {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("micro: instructions were not counted: {error}");
            ExitCode::FAILURE
        }
    }
}
