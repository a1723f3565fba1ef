//! Every property, for the corpus and for what a fixed seed makes of it: the same bytes on every machine.

use std::panic::catch_unwind;
use std::path::Path;

use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use trireme_fuzz::PROPERTIES;

const SEED: u64 = 0x7472_6972_656d_6500;
/// Of each property. All together take about five seconds; `make test-long` searches by `cargo fuzz` for longer.
const MUTATIONS: usize = 20_000;
/// One input is changed this often at most.
const CHANGES: usize = 8;
const MAX_BYTES: usize = 4096;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../corpus")
        .join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    let read = |file: &std::path::PathBuf| std::fs::read(file).expect("a file of the corpus");
    files.iter().map(read).collect()
}

fn mutate(corpus: &[Vec<u8>], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = corpus.choose(rng).expect("a corpus").clone();
    for _ in 0..rng.random_range(1..=CHANGES) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = rng.random(),
            // The values at which lengths and numbers turn over.
            2 if at < bytes.len() => {
                bytes[at] = *[0, 1, 0x7f, 0x80, 0xff].choose(rng).expect("some");
            }
            3 => bytes.insert(at, rng.random()),
            4 => {
                let end = rng.random_range(at..=bytes.len());
                bytes.drain(at..end);
            }
            5 => {
                let end = rng.random_range(at..=bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            6 => {
                let other = corpus.choose(rng).expect("a corpus");
                let from = rng.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => bytes.truncate(at),
        }
        bytes.truncate(MAX_BYTES);
    }
    bytes
}

#[test]
fn properties_hold_for_the_corpus_and_what_a_seed_makes_of_it() {
    let mut broken = Vec::new();
    for (name, property) in PROPERTIES {
        let corpus = corpus(name);
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let mutated = (0..MUTATIONS).map(|_| mutate(&corpus, &mut rng));
        let inputs: Vec<Vec<u8>> = corpus.iter().cloned().chain(mutated).collect();
        let begin = std::time::Instant::now();
        let breaks = |bytes: &&Vec<u8>| catch_unwind(|| property(bytes)).is_err();
        if let Some(bytes) = inputs.iter().find(breaks) {
            broken.push(format!("{name} does not hold for {}", hex::encode(bytes)));
        }
        println!("{name}: {} inputs in {:.0?}", inputs.len(), begin.elapsed());
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
