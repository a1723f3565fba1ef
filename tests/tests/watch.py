"""Watches ConfigMaps of one namespace and prints each name once it is added, resuming by
resourceVersion whenever the connection breaks, as any client would. Ends with its standard output."""
import sys
import time

from kubernetes import client, config, watch

config.load_kube_config()
api = client.CoreV1Api()
version = api.list_namespaced_config_map("stream").metadata.resource_version
print("watching", flush=True)
while True:
    try:
        for event in watch.Watch().stream(
            api.list_namespaced_config_map, "stream", resource_version=version,
            allow_watch_bookmarks=True, _request_timeout=(2, 30), timeout_seconds=300,
        ):
            kind, item = event["type"], event["raw_object"]
            if kind == "ERROR":
                print("ERROR", item, flush=True)
                sys.exit(1)
            version = item["metadata"]["resourceVersion"]
            name = item["metadata"].get("name", "")
            if kind == "ADDED" and name.startswith("write-"):
                print(name, flush=True)
    except client.exceptions.ApiException as error:
        if error.status == 410:
            print("ERROR", error.reason, flush=True)
            sys.exit(1)
        time.sleep(0.1)
    except Exception:
        # A broken connection: resume where we were.
        time.sleep(0.1)
