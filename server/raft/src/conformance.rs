//! openraft's own test suite for stores, against ours on RocksDB.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use crate::engine::Engine;
use crate::entry::Types;
use crate::log::LogStore;
use crate::machine::Machine;
use crate::rocks::RocksEngine;

struct Builder;

impl StoreBuilder<Types, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<Types>> {
        let directory = TempDir::new().unwrap();
        let engine: Arc<dyn Engine> = Arc::new(RocksEngine::open(directory.path()).unwrap());
        let log = LogStore::open(engine.clone(), 1 << 20).unwrap();
        Ok((directory, log, Machine::open(engine).unwrap()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes() {
    Suite::<Types, LogStore, Machine, Builder, TempDir>::test_all(Builder)
        .await
        .unwrap();
}
