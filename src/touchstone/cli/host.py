"""The verb `serve`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from touchstone.cli.options import AsJson, Device, Draft, Dtype, Invariant, Lang, LangOption, ModelFolder, Weights

__all__ = ["serve"]


def serve(
    model: ModelFolder,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Where to listen; others than this machine need an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="0 takes a free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What clients call the model; the folder's name if not given.")
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file", metavar="FILE", help="API keys, one a line; TOUCHSTONE_API_KEY holds some too, with commas between."
        ),
    ] = None,
    allow_host: Annotated[
        list[str], typer.Option("--allow-host", metavar="NAME", help="Another name that requests may be addressed to; repeatable.")
    ] = [],  # noqa: B006 - typer copies it
    max_requests: Annotated[
        int, typer.Option("--max-requests", metavar="N", min=1, help="Requests at once, those that wait included; more get 429.")
    ] = 256,
    max_body_kib: Annotated[int, typer.Option("--max-body-kib", metavar="N", min=1, help="The largest request body.")] = 1024,
    request_seconds: Annotated[
        float, typer.Option("--request-seconds", metavar="S", min=0.1, help="The longest time for one answer.")
    ] = 600.0,
    step_seconds: Annotated[
        float,
        typer.Option("--step-seconds", metavar="S", min=1.0, help="An engine that needs longer for one step hangs, and is started again."),
    ] = 300.0,
    drain_seconds: Annotated[
        float, typer.Option("--drain-seconds", metavar="S", min=0.0, help="What runs may take so long to finish after SIGTERM or Ctrl-C.")
    ] = 30.0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    weights: Weights = None,
    invariant: Invariant = False,
    draft: Draft = None,
    lang: LangOption = Lang.en,
    as_json: AsJson = False,
) -> int:
    """Serve a model to OpenAI's clients and to people: an API, and a page at `/`.

    One line of JSON a request goes to stderr. Ctrl-C or SIGTERM ends it once the answers that run are complete.

    \b
    Examples:
      touchstone serve runs/quickstart
      touchstone serve runs/mine --port 9000 --weights int8
      touchstone serve runs/mine --host 0.0.0.0 --api-key-file keys.txt --allow-host models.example.org
    """
    from touchstone.cli.session import finish, open_terminal

    terminal = open_terminal(lang.value, as_json)
    from touchstone.flows.hosting import Publishing, publish
    from touchstone.flows.opening import Opening

    asked = Publishing(
        host=host,
        port=port,
        name=name,
        key_file=api_key_file,
        hosts=tuple(allow_host),
        max_requests=max_requests,
        max_body_bytes=max_body_kib << 10,
        request_s=request_seconds,
        step_s=step_seconds,
        drain_s=drain_seconds,
    )
    opening = Opening(device, dtype, weights.value if weights else None, invariant, draft)
    return finish(terminal, publish(model, asked, opening, terminal, environment=os.environ))
