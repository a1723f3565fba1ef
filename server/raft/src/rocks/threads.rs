//! The two threads that wait for the disk, so that tasks need not.

use std::io;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::JoinHandle;

use super::{Inner, locked};
use crate::engine::{Done, Write};

/// Writes what is queued: all of it in one batch with one sync, then the callbacks.
///
/// Its queue is bounded by its caller, the log, which counts the bytes that wait.
pub(super) struct Writer {
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
    writes: Vec<Write>,
    done: Vec<Done>,
    closed: bool,
}

impl Writer {
    pub(super) fn start(inner: Arc<Inner>) -> io::Result<Writer> {
        let queue = Arc::new(Queue::default());
        let shared = queue.clone();
        let thread = std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || write_until_closed(&shared, &inner))?;
        Ok(Writer {
            queue,
            thread: Some(thread),
        })
    }

    pub(super) fn enqueue(&self, batch: Vec<Write>, done: Done) {
        {
            let mut waiting = locked(&self.queue.waiting);
            waiting.writes.extend(batch);
            waiting.done.push(done);
        }
        self.queue.arrived.notify_one();
    }
}

fn write_until_closed(queue: &Queue, inner: &Inner) {
    loop {
        let (writes, done) = {
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
            (
                std::mem::take(&mut waiting.writes),
                std::mem::take(&mut waiting.done),
            )
        };
        // Not one synced write: RocksDB would make writes that come meanwhile, those of applying,
        // wait for the disk too.
        let result = inner.write(writes).and_then(|()| inner.sync_now());
        for done in done {
            done(match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
    }
}

impl Drop for Writer {
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
