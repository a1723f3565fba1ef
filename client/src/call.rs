//! One call over many servers: whom to ask, when to ask the next one, when to give up.

use std::error::Error as _;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::Channel;

use crate::connect::{self, Dialer, was_not_sent};
use crate::error::{Error, status_of};

/// A call ends by then, whatever happens. Long enough for an election and a slow disk.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(15);

/// How long one server may take to answer a read before the next one is asked.
const READ_ATTEMPT_DEADLINE: Duration = Duration::from_secs(5);

/// Pauses between rounds over all servers: from an in-machine round trip to about an election.
const BACK_OFF_FIRST: Duration = Duration::from_millis(25);
const BACK_OFF_MAX: Duration = Duration::from_millis(400);

/// Attempts of one call. The deadline ends it sooner unless servers refuse instantly.
const ATTEMPTS_MAX: u32 = 100;

/// Whether a request may be sent again after it may have been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Reads.
    Safe,
    /// Writes: only when the request was certainly not carried out.
    Unsafe,
}

/// The servers of a cluster, each with a lazily made connection.
pub(crate) struct Servers {
    addresses: Vec<String>,
    channels: Vec<Channel>,
    /// The server that answered last.
    preferred: AtomicUsize,
    deadline: Duration,
}

/// What to do after an attempt failed.
enum Verdict {
    Return(Error),
    /// Ask again: another server where `elsewhere`, not before the pause the server asked for.
    Again {
        elsewhere: bool,
        pause: Option<Duration>,
        error: Error,
    },
}

impl Servers {
    pub(crate) fn new(
        addresses: Vec<String>,
        tls: Arc<rustls::ClientConfig>,
        dialer: Dialer,
        deadline: Duration,
    ) -> Result<Servers, Error> {
        if addresses.is_empty() {
            return Err(Error::Request("no server addresses given".to_string()));
        }
        let channels = addresses
            .iter()
            .map(|address| {
                connect::channel(address, tls.clone(), dialer.clone())
                    .map_err(|e| Error::Request(format!("server address {address:?}: {e}")))
            })
            .collect::<Result<_, _>>()?;
        Ok(Servers {
            addresses,
            channels,
            preferred: AtomicUsize::new(0),
            deadline,
        })
    }

    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The server that the next call asks first.
    pub(crate) fn preferred(&self) -> &str {
        &self.addresses[self.preferred.load(Ordering::Relaxed) % self.addresses.len()]
    }

    /// Makes the next call start at another server, unless one was already chosen meanwhile.
    fn leave(&self, index: usize) {
        let next = (index + 1) % self.addresses.len();
        let _ = self
            .preferred
            .compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Sends a request until a server decides about it. `send` gets the channel and how long the
    /// attempt may last.
    pub(crate) async fn call<T, F, Answer>(
        &self,
        operation: &str,
        repeat: Repeat,
        send: F,
    ) -> Result<T, Error>
    where
        F: Fn(Channel, Duration) -> Answer,
        Answer: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let deadline = Instant::now() + self.deadline;
        let mut back_off = BACK_OFF_FIRST;
        let mut last: Option<Error> = None;
        for attempt in 1..=ATTEMPTS_MAX {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                break;
            }
            let index = self.preferred.load(Ordering::Relaxed) % self.addresses.len();
            let allowed = match repeat {
                Repeat::Safe => remaining.min(READ_ATTEMPT_DEADLINE),
                Repeat::Unsafe => remaining,
            };
            let sending = send(self.channels[index].clone(), allowed);
            let verdict = match tokio::time::timeout(allowed, sending).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => self.judge(operation, repeat, index, &status),
                Err(_) => {
                    let error = Error::Lost {
                        operation: operation.to_string(),
                        server: self.addresses[index].clone(),
                        cause: format!("no answer within {} ms", allowed.as_millis()),
                    };
                    match repeat {
                        Repeat::Safe => Verdict::Again {
                            elsewhere: true,
                            pause: None,
                            error,
                        },
                        Repeat::Unsafe => Verdict::Return(error),
                    }
                }
            };
            match verdict {
                Verdict::Return(error) => return Err(error),
                Verdict::Again {
                    elsewhere,
                    pause,
                    error,
                } => {
                    tracing::debug!(operation, attempt, %error, "asking again");
                    last = Some(error);
                    if elsewhere {
                        self.leave(index);
                    }
                    // Another server may answer at once; pause only when all were asked.
                    let round_done = (attempt as usize).is_multiple_of(self.addresses.len());
                    let pause = match pause {
                        Some(pause) => pause,
                        None if elsewhere && !round_done => continue,
                        None => {
                            let pause = back_off.mul_f64(rand::rng().random_range(0.5..1.0));
                            back_off = (back_off * 2).min(BACK_OFF_MAX);
                            pause
                        }
                    };
                    if Instant::now() + pause >= deadline {
                        break;
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
        Err(match last {
            // What a server said is more telling than that time ran out.
            Some(error @ Error::Status(_)) => error,
            last => Error::Unreachable {
                operation: operation.to_string(),
                servers: self.addresses.join(", "),
                cause: last.map_or("no time left".to_string(), |error| error.to_string()),
            },
        })
    }

    fn judge(
        &self,
        operation: &str,
        repeat: Repeat,
        index: usize,
        status: &tonic::Status,
    ) -> Verdict {
        if let Some(answer) = status_of(status) {
            let pause = answer.retry_after_seconds().map(Duration::from_secs);
            return match answer.code {
                // Servers answer 503 only when they have not proposed the write: no leader, or
                // shutting down. Without a leader here another server may know one.
                503 => Verdict::Again {
                    elsewhere: true,
                    pause: None,
                    error: Error::Status(answer),
                },
                429 if pause.is_some() => Verdict::Again {
                    elsewhere: false,
                    pause,
                    error: Error::Status(answer),
                },
                _ => Verdict::Return(Error::Status(answer)),
            };
        }
        let server = self.addresses[index].clone();
        let lost = Error::Lost {
            operation: operation.to_string(),
            server: server.clone(),
            cause: cause(status),
        };
        let not_sent = status.source().is_some_and(was_not_sent)
            // tonic's own words for a channel whose connection task ended before the request.
            || (status.code() == Code::Unknown && status.message().starts_with("Service was not ready"));
        let transport = status.source().is_some()
            || matches!(
                status.code(),
                Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown
            );
        if not_sent || (transport && repeat == Repeat::Safe) {
            Verdict::Again {
                elsewhere: true,
                pause: None,
                error: lost,
            }
        } else if transport {
            self.leave(index);
            Verdict::Return(lost)
        } else {
            Verdict::Return(Error::Protocol {
                operation: operation.to_string(),
                server,
                code: status.code(),
                message: status.message().to_string(),
            })
        }
    }
}

/// The innermost cause of a transport error, which says more than "transport error".
fn cause(status: &tonic::Status) -> String {
    let mut innermost = None;
    let mut current = status.source();
    while let Some(error) = current {
        innermost = Some(error.to_string());
        current = error.source();
    }
    match innermost {
        Some(innermost) => innermost,
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}
