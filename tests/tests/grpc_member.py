"""A gRPC server and a proxyless gRPC client, without generated code.

serve PORT NAME: answers every call with NAME.
call TARGET COUNT [KEY=VALUE ...]: calls that often with this metadata, and prints who answered how
often, as JSON.
"""

import collections
import concurrent.futures
import json
import sys

import grpc

METHOD = "/test.Echo/Who"


def serve(port, name):
    who = grpc.unary_unary_rpc_method_handler(lambda request, context: name.encode())
    handlers = grpc.method_handlers_generic_handler("test.Echo", {"Who": who})
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers((handlers,))
    server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()


def call(target, count, pairs):
    metadata = [tuple(pair.split("=", 1)) for pair in pairs]
    answers = collections.Counter()
    with grpc.insecure_channel(target) as channel:
        who = channel.unary_unary(METHOD)
        for _ in range(count):
            answer = who(b"", metadata=metadata, timeout=20, wait_for_ready=True)
            answers[answer.decode()] += 1
    print(json.dumps(answers), flush=True)


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]), sys.argv[3])
else:
    call(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
