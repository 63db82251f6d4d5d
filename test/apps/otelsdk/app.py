"""test/apps/flask, instrumented with the OpenTelemetry SDK: a program that
propagates by itself.

Writes a line of JSON for each finished span to standard output, so that a test
knows what the SDK knows.
"""

import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flask"))

import app as service  # noqa: E402
from opentelemetry import trace  # noqa: E402
from opentelemetry.instrumentation.flask import FlaskInstrumentor  # noqa: E402
from opentelemetry.instrumentation.requests import RequestsInstrumentor  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult  # noqa: E402


class Lines(SpanExporter):
    def export(self, spans):
        for s in spans:
            line = {
                "traceId": f"{s.context.trace_id:032x}",
                "spanId": f"{s.context.span_id:016x}",
                "parentSpanId": f"{s.parent.span_id:016x}" if s.parent else "",
                "kind": s.kind.name,
                "url": s.attributes.get("http.url", "") or s.attributes.get("http.target", ""),
            }
            # One write each: threads must not mix lines.
            sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Lines()))
trace.set_tracer_provider(provider)
FlaskInstrumentor().instrument_app(service.app, excluded_urls="ready")
RequestsInstrumentor().instrument()

if __name__ == "__main__":
    service.app.run(host="127.0.0.1", port=int(os.environ["PORT"]), threaded=True)
