//! `eviction`: a deletion that asks the Pod's disruption budget first. What the budget allows is counted down here, in the
//! same write that notes the Pod, so that two evictions at once never share one permission.

use std::sync::Arc;

use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::Value;

use super::delete::{DeleteOptions, Preconditions};
use super::write::{Options, Place};
use super::{Api, errors, meta};
use crate::controllers::disruption;
use crate::object::Object;
use crate::reader::Reader;
use crate::status::ApiError;

const BUDGETS: &str = "poddisruptionbudgets.policy";

/// A budget that remembers more is refused: its controller is not keeping up.
const MAX_DISRUPTED: usize = 2000;

impl Api {
    /// Deletes a Pod unless its budget has none to spare (429).
    pub(crate) async fn evict(
        &self,
        place: Place<'_>,
        eviction: &Value,
        options: &Options,
    ) -> Result<(), ApiError> {
        let named = meta::text(eviction, "name");
        if !named.is_empty() && named != place.name {
            return Err(errors::bad_request("name in URL does not match name in Eviction object"));
        }
        let mut delete: DeleteOptions = match &eviction["deleteOptions"] {
            Value::Null => DeleteOptions::default(),
            options => serde_json::from_value(options.clone())
                .map_err(|e| errors::bad_request(format!("deleteOptions: {e}")))?,
        };
        if options.dry_run {
            delete.dry_run = Some(vec!["All".into()]);
        }
        let pod = self.find(Place { subresource: "", ..place })?;
        if let Some(budget) = self.budget(&pod)? {
            self.spend(&pod, &budget, options).await?;
            // It must be the Pod that was counted.
            let wanted = delete.preconditions.get_or_insert_with(Preconditions::default);
            wanted.uid.get_or_insert_with(|| pod.meta.uid.clone());
        }
        self.delete(Place { subresource: "", ..place }, &delete).await.map(drop)
    }

    /// The budget that has a say in this Pod's end.
    fn budget(&self, pod: &Object) -> Result<Option<Arc<Object>>, ApiError> {
        if pod.meta.deletion_timestamp.is_some() || is_idle(pod) {
            return Ok(None);
        }
        let budgets = self.store.list(BUDGETS, Some(&pod.meta.namespace)).into_iter();
        let mut budgets = budgets.filter(|b| disruption::selects(b, &pod.meta.labels));
        match (budgets.next(), budgets.next()) {
            (first, None) => Ok(first),
            _ => Err(errors::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            )),
        }
    }

    async fn spend(
        &self,
        pod: &Object,
        budget: &Object,
        options: &Options,
    ) -> Result<(), ApiError> {
        let kind = self.registry.resource(BUDGETS).ok_or_else(errors::no_such_path)?;
        let (namespace, name) = (&budget.meta.namespace, &budget.meta.name);
        let place = Place { kind, namespace, name, subresource: "status" };
        let counted = |stored: &Object| {
            let view = stored.view::<PodDisruptionBudget>().map_err(errors::internal)?;
            let mut value = stored.value();
            if decide(pod, stored, &view)? == Verdict::Counts {
                let left = view.status.as_ref().map_or(0, |status| status.disruptions_allowed);
                value["status"]["disruptionsAllowed"] = (left - 1).into();
                value["status"]["disruptedPods"][&pod.meta.name] =
                    meta::time(Timestamp::now()).into();
            }
            Ok(value)
        };
        self.update(place, options, counted).await.map(drop)
    }
}

/// Neither begun nor still running: nothing is disrupted.
fn is_idle(pod: &Object) -> bool {
    let view = pod.view::<Pod>().ok();
    let phase = view.and_then(|pod| pod.status.clone()?.phase);
    matches!(phase.as_deref(), Some("Pending" | "Succeeded" | "Failed"))
}

fn is_ready(pod: &Object) -> bool {
    let view = pod.view::<Pod>().ok();
    let conditions = view.and_then(|pod| pod.status.clone()?.conditions).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

#[derive(Debug, PartialEq)]
enum Verdict {
    /// It may go, and takes one from what is allowed.
    Counts,
    /// It may go: it is no part of what is healthy.
    Free,
}

/// Whether the budget lets the Pod go. Pure.
fn decide(pod: &Object, budget: &Object, view: &PodDisruptionBudget) -> Result<Verdict, ApiError> {
    let status = view.status.clone().unwrap_or_default();
    let policy = view.spec.as_ref().and_then(|spec| spec.unhealthy_pod_eviction_policy.clone());
    if !is_ready(pod) {
        let healthy =
            status.current_healthy >= status.desired_healthy && status.desired_healthy > 0;
        if policy.as_deref() == Some("AlwaysAllow") || healthy {
            return Ok(Verdict::Free);
        }
    }
    let name = &budget.meta.name;
    if status.observed_generation.unwrap_or(0) < budget.meta.generation {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refused(why, Some(10)));
    }
    if status.disrupted_pods.as_ref().is_some_and(|pods| pods.len() > MAX_DISRUPTED) {
        let why = format!("The disruption budget {name} has too many disrupted pods to process.");
        return Err(refused(why, Some(10)));
    }
    if status.disruptions_allowed > 0 {
        return Ok(Verdict::Counts);
    }
    let why = format!(
        "The disruption budget {name} needs {} healthy pods and has {} currently",
        status.desired_healthy, status.current_healthy
    );
    Err(refused(why, None))
}

fn refused(why: String, retry_after_seconds: Option<u32>) -> ApiError {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
    error.causes = vec![errors::cause("DisruptionBudget", "", why)];
    error.retry_after_seconds = retry_after_seconds;
    error
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(ready: bool) -> Object {
        let status = if ready { "True" } else { "False" };
        let value = json!({"metadata": {"name": "p", "uid": "u"}, "status": {
            "phase": "Running", "conditions": [{"type": "Ready", "status": status}],
        }});
        Object::from_value("pods", &value).unwrap()
    }

    fn verdict(ready: bool, policy: &str, status: Value) -> Result<Verdict, String> {
        let value = json!({"metadata": {"name": "b", "generation": 2},
            "spec": {"unhealthyPodEvictionPolicy": policy}, "status": status});
        let budget = Object::from_value(BUDGETS, &value).unwrap();
        let view = budget.view().unwrap();
        decide(&pod(ready), &budget, &view).map_err(|error| error.causes[0].message.clone())
    }

    #[test]
    fn a_budget_lets_go_what_it_can_spare() {
        let status = |allowed: i32, healthy: i32| {
            json!({"disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": 2,
                "expectedPods": 3, "observedGeneration": 2})
        };
        const USUAL: &str = "IfHealthyBudget";
        assert_eq!(verdict(true, USUAL, status(1, 3)), Ok(Verdict::Counts));
        let refused = verdict(true, USUAL, status(0, 2)).unwrap_err();
        assert_eq!(refused, "The disruption budget b needs 2 healthy pods and has 2 currently");
        assert_eq!(verdict(false, USUAL, status(0, 2)), Ok(Verdict::Free));
        assert!(verdict(false, USUAL, status(0, 1)).is_err());
        assert_eq!(verdict(false, "AlwaysAllow", status(0, 1)), Ok(Verdict::Free));
        let stale = json!({"disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2,
            "expectedPods": 3, "observedGeneration": 1});
        assert!(verdict(true, USUAL, stale).unwrap_err().contains("still being processed"));
    }
}
