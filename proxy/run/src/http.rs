//! x
use std::rc::Rc;
use std::sync::Arc;
use trireme_proxy_decide::config::HttpConnectionManager;
use crate::h1::Transport;
use crate::listener::Downstream;
use crate::worker::Worker;
pub async fn serve(_worker: &Rc<Worker>, _downstream: Downstream, _manager: &Arc<HttpConnectionManager>, _transport: Transport, _protocol: Option<Vec<u8>>) {}
