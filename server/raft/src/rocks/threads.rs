//! The two threads that wait for the disk, so that tasks need not.

use std::io;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::JoinHandle;

use super::{Inner, locked};
use crate::engine::Done;

/// Syncs the write-ahead log for everybody who waits.
///
/// Its queue is bounded by its callers: openraft has at most one append call under way and holds
/// back when too many are unflushed.
pub(super) struct Syncer {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Default)]
struct Waiting {
    done: Vec<Done>,
    closed: bool,
}

impl Syncer {
    pub(super) fn start(inner: Arc<Inner>) -> io::Result<Syncer> {
        let queue = Arc::new(Queue::default());
        let shared = queue.clone();
        let thread = std::thread::Builder::new()
            .name("wal-sync".into())
            .spawn(move || sync_until_closed(&shared, &inner))?;
        Ok(Syncer {
            queue,
            thread: Some(thread),
        })
    }

    pub(super) fn enqueue(&self, done: Done) {
        locked(&self.queue.waiting).done.push(done);
        self.queue.arrived.notify_one();
    }
}

fn sync_until_closed(queue: &Queue, inner: &Inner) {
    loop {
        let waiting = {
            let mut waiting = locked(&queue.waiting);
            while waiting.done.is_empty() {
                if waiting.closed {
                    return;
                }
                waiting = queue
                    .arrived
                    .wait(waiting)
                    .unwrap_or_else(|p| p.into_inner());
            }
            std::mem::take(&mut waiting.done)
        };
        // Everything these callers wrote was written before they asked.
        let result = inner.sync_now();
        for done in waiting {
            done(match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        locked(&self.queue.waiting).closed = true;
        self.queue.arrived.notify_one();
        join(self.thread.take());
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Makes checkpoints and imports them, one at a time.
pub(super) struct Worker {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn start() -> io::Result<Worker> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || {
                for job in queue {
                    job();
                }
            })?;
        Ok(Worker {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    pub(super) fn run(&self, job: Job) {
        // The thread outlives the sender; a job dropped with it drops its callback, which its
        // owner sees as a closed channel.
        if let Some(jobs) = &self.jobs {
            jobs.send(job).ok();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs.take();
        join(self.thread.take());
    }
}

/// The last owner may be dropped by a callback on the very thread to be joined.
fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread
        && thread.thread().id() != std::thread::current().id()
    {
        thread.join().ok();
    }
}
