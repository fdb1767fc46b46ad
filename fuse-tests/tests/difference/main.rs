//! The same random programs in a mount and in a plain directory of the local filesystem, side by side: every answer must be
//! the same (errno, bytes, attributes, listings), and both trees at the end.
//!
//! In between the volume lives: commits, `reload --keep` on top of what another pod published, unmounting and mounting
//! again, `kill -9` of the daemon, and pods that mount after a commit with nothing on their machine. None of it may change
//! anything that a program sees, down to times, inode numbers, links and extended attributes.
//!
//! `SAILVOL_DIFF_RUNS`, `SAILVOL_DIFF_OPS` and `SAILVOL_DIFF_SEED` say how many programs, how long, and from which seed on;
//! `SAILVOL_DIFF_MOUNT` holds more options for the mount. A difference is cut down to the shortest program that still
//! differs and printed as lines that `SAILVOL_DIFF_REPLAY` (a file) takes; those that were found are kept in `found/`.

mod events;
mod program;
mod side;

use std::path::Path;
use std::time::{Duration, Instant};

use events::World;
use program::{Rng, Step, program};

/// Programs and steps of each in CI.
const RUNS: u64 = 6;
const STEPS: usize = 150;
/// How long a failing program is made shorter.
const SHRINK_TIME: Duration = Duration::from_secs(120);

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse().unwrap_or_else(|e| panic!("{name}: {e}"))
    })
}

#[test]
fn a_mount_is_as_a_local_directory() {
    let world = World::new();
    if let Ok(path) = std::env::var("SAILVOL_DIFF_REPLAY") {
        replay(&world, Path::new(&path));
        return;
    }
    let first = from_env("SAILVOL_DIFF_SEED", 1);
    let runs = from_env("SAILVOL_DIFF_RUNS", RUNS);
    let steps = usize::try_from(from_env("SAILVOL_DIFF_OPS", STEPS as u64)).unwrap();
    let mut differing = 0;
    for seed in first..first + runs {
        let steps = program(&mut Rng::new(seed), steps);
        let Err((at, difference)) = world.play(&steps) else {
            continue;
        };
        differing += 1;
        println!("seed {seed}, step {at}: {difference}");
        let (steps, difference) = shortest(&world, steps[..=at].to_vec(), difference);
        println!("the shortest program ends with: {difference}");
        for step in &steps {
            println!("{}", serde_json::to_string(step).unwrap());
        }
        if differing == 5 {
            break;
        }
    }
    println!("{:?}", world.counts());
    assert_eq!(differing, 0, "of {runs} programs");
}

/// What this test found once, each cut down to the shortest program.
#[test]
fn programs_that_differed_once() {
    let world = World::new();
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/difference/found");
    for program in std::fs::read_dir(found).unwrap() {
        replay(&world, &program.unwrap().path());
    }
}

fn replay(world: &World, path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let steps: Vec<Step> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    if let Err((at, difference)) = world.play(&steps) {
        panic!("{}, step {at}: {difference}", path.display());
    }
}

/// Leaves steps out as long as what is left still differs.
fn shortest(world: &World, mut steps: Vec<Step>, mut difference: String) -> (Vec<Step>, String) {
    let end = Instant::now() + SHRINK_TIME;
    let mut piece = steps.len() / 2;
    while piece > 0 && Instant::now() < end {
        let (mut at, mut shorter) = (0, false);
        while at < steps.len() && Instant::now() < end {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + piece).min(steps.len()));
            match world.play(&fewer) {
                Err((last, found)) => {
                    fewer.truncate(last + 1);
                    (steps, difference, shorter) = (fewer, found, true);
                }
                Ok(()) => at += piece,
            }
        }
        if !(shorter && piece == 1) {
            piece /= 2;
        }
    }
    (steps, difference)
}
