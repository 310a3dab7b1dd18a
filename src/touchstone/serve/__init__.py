"""Serving a model to OpenAI's clients and to people: `touchstone serve MODEL`.

Two processes: this one speaks HTTP and holds no model, the other runs the inference engine. They are joined by a private socket.

listen.py          the server from its start to its end (supervisor.py starts the engine again when it dies)
app.py             the routes (service.py what they share; protocol.py and chat_request.py what may be asked; told.py what is answered)
replies.py         answers on their way to clients that may leave
limits.py          what is refused before it is read (keys.py who may ask); connections.py those that are too slow
engine_process.py  the other process (driver.py its steps, jobs.py what it is asked, tokens.py tokens as clients see them)
frames.py          what goes between the two
gauges.py          /metrics; openapi.py /openapi.json
"""
