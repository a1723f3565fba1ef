//! Many at once, and how fast one is.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::cases;
use crate::stand::Stand;

cases![eight_at_a_time_never_fail, create_to_running];

const CONTAINERS: usize = 200;

async fn eight_at_a_time_never_fail() {
    let stand = Arc::new(Stand::new().await);
    let before = std::env::current_dir().expect("directory");
    let places = Arc::new(Semaphore::new(8));
    let mut tasks = Vec::new();
    for number in 0..CONTAINERS {
        let stand = stand.clone();
        let places = places.clone();
        tasks.push(tokio::spawn(async move {
            let _place = places.acquire().await.expect("place");
            let id = format!("p{number}");
            let spec = stand.spec(&id, &format!("echo {number}; exit {}", number % 50));
            let (code, text) = stand.run(&spec).await;
            assert_eq!(
                (code, text),
                ((number % 50) as i32, vec![number.to_string()])
            );
            stand.runtime.delete(&id).await.expect("delete");
        }));
    }
    let mut failed = 0;
    for task in tasks {
        if task.await.is_err() {
            failed += 1;
        }
    }
    println!("    {failed} of {CONTAINERS} failed, 8 at a time");
    assert_eq!(failed, 0);
    assert_eq!(std::env::current_dir().expect("directory"), before);
    let stand = Arc::into_inner(stand).expect("the only owner");
    stand.finish().await;
}

async fn create_to_running() {
    let stand = Stand::new().await;
    let mut times_ms = Vec::new();
    for number in 0..30 {
        let id = format!("t{number}");
        let spec = stand.spec_in(stand.sandbox(), &id, &["/bin/sleep", "1000"]);
        let started = Instant::now();
        stand.runtime.create_and_start(&spec).await.expect("start");
        times_ms.push(started.elapsed().as_secs_f64() * 1000.0);
        stand.runtime.delete(&id).await.expect("delete");
    }
    times_ms.sort_by(f64::total_cmp);
    println!(
        "    create -> running: median {:.1} ms, worst {:.1} ms of 30",
        times_ms[15], times_ms[29]
    );
    stand.finish().await;
}
