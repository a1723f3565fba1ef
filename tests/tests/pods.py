"""Creates, watches and deletes a pod with the Kubernetes Python client; prints what it saw."""
from kubernetes import client, config, watch

config.load_kube_config()
api = client.CoreV1Api()
body = client.V1Pod(
    metadata=client.V1ObjectMeta(name="snake", labels={"app": "snake"}),
    spec=client.V1PodSpec(
        termination_grace_period_seconds=1,
        containers=[client.V1Container(name="main", image="trireme.local/hello")],
    ),
)
created = api.create_namespaced_pod("default", body)
print("created", created.metadata.name)
version = created.metadata.resource_version
deleted = False
for event in watch.Watch().stream(
    api.list_namespaced_pod, "default", label_selector="app=snake",
    resource_version=version, timeout_seconds=60,
):
    pod = event["object"]
    if event["type"] == "MODIFIED" and pod.status.phase == "Running" and not deleted:
        print("running", pod.status.pod_ip)
        api.delete_namespaced_pod("snake", "default")
        deleted = True
    if event["type"] == "DELETED":
        print("deleted", pod.metadata.name)
        break
try:
    api.read_namespaced_pod("snake", "default")
except client.exceptions.ApiException as error:
    print("then", error.status, error.reason)
