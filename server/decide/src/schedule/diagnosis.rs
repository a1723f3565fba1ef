//! Why a pod fits nowhere, in kube-scheduler's words.

use std::collections::BTreeMap;

use super::filter::Refusal;

/// The refusals of all nodes, counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Diagnosis {
    nodes: usize,
    reasons: BTreeMap<String, usize>,
    curable: usize,
    never_preempts: bool,
    /// It waits for pods that may yet be placed near it.
    pub may_be_cured_by_company: bool,
}

fn histogram(counts: impl Iterator<Item = (String, usize)>) -> String {
    let mut lines: Vec<String> = counts
        .filter(|(_, n)| *n > 0)
        .map(|(reason, n)| format!("{n} {reason}"))
        .collect();
    // By the whole text, number first, as kube-scheduler does.
    lines.sort();
    lines.join(", ")
}

impl Diagnosis {
    pub fn new(nodes: usize, never_preempts: bool) -> Self {
        Self {
            nodes,
            never_preempts,
            ..Self::default()
        }
    }

    pub fn add(&mut self, refusal: &Refusal<'_>) {
        for reason in refusal.reasons() {
            *self.reasons.entry(reason).or_default() += 1;
        }
        self.curable += usize::from(refusal.is_curable());
    }

    pub fn message(&self) -> String {
        let nodes = self.nodes;
        if nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let reasons = histogram(self.reasons.iter().map(|(reason, n)| (reason.clone(), *n)));
        if self.never_preempts {
            return format!(
                "0/{nodes} nodes are available: {reasons}. \
                 preemption: not eligible due to preemptionPolicy=Never."
            );
        }
        let preemption = histogram(
            [
                (
                    "No preemption victims found for incoming pod".to_owned(),
                    self.curable,
                ),
                (
                    "Preemption is not helpful for scheduling".to_owned(),
                    nodes - self.curable,
                ),
            ]
            .into_iter(),
        );
        format!(
            "0/{nodes} nodes are available: {reasons}. \
             preemption: 0/{nodes} nodes are available: {preemption}."
        )
    }
}
