"""Stand-ins for the paper's data: files with the published schemas, a web server of images with
traps, a tiny translation model and a language model behind an endpoint."""

import contextlib
import functools
import gzip
import hashlib
import io
import json
import re
import shutil
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

_TEXTS = Path("data/embedded/text-000000.tar")
HUB_NAME, HUB_COMMIT = "owner/name", "a" * 40
TRAPS = {
    "/gone": "image: gone",
    "/forbidden": "image: blocked",
    "/noai": "image: blocked",
    "/slow": "image: unreachable",
    "/loop": "image: unreachable",
    "/html": "image: not an image",
    "/cut": "image: not an image",
    "/bomb": "image: not an image",
    "/huge": "image: too large",
    "/endless": "image: too large",
}
"""Path -> reason why its row is dropped."""


@functools.cache
def pairs() -> list[tuple[str, str]]:
    """Return real sentences in English and Basque, sorted by length."""
    found = []
    with tarfile.open(_TEXTS) as tar:
        for member in tar:
            if member.name.endswith(".json"):
                raw = json.loads(tar.extractfile(member).read())["text"]
                found.append(tuple(raw[code]["messages"][0]["content"] for code in ("en", "eu")))
    plain = [p for p in found if not re.search(r"\d|<|`|\$|\{|%|\n|: |[.!?] ", "".join(p))]
    return sorted(plain, key=lambda p: len(p[0]) + len(p[1]))


def image_bytes(seed: int, size: int = 32) -> bytes:
    """Return a small image that is different for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Discard log messages."""

    def _send(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _Images(_Handler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked[path] += 1
        with contextlib.suppress(OSError):
            self._answer(path)

    def _answer(self, path: str) -> None:
        kind, _, number = path.strip("/").partition("/")
        if kind == "moved":
            self._send(b"", 302, Location=f"/p/{number}")
        elif kind == "busy" and self.server.asked[path] == 1:  # the first time only
            self._send(b"", 503, Retry_After="0")
        elif kind in ("p", "busy"):
            self._send(image_bytes(int(number)))
        elif path in _REPLIES:
            content, status, headers = _REPLIES[path]
            self._send(content, status, **headers)
        else:
            self._never_ends(path)

    def _never_ends(self, path: str) -> None:
        self.send_response(200)
        if path != "/endless":
            self.send_header("Content-Length", str(1 << 40 if path == "/huge" else 1000))
        self.end_headers()
        for _ in range(10_000 if path == "/endless" else 40 if path == "/slow" else 0):
            self.wfile.write(b"\0" * (65536 if path == "/endless" else 1))
            time.sleep(0.1 if path == "/slow" else 0)


_REPLIES: dict[str, tuple[bytes, int, dict[str, str]]] = {
    "/gone": (b"", 404, {}),
    "/forbidden": (b"", 403, {}),
    "/noai": (image_bytes(0), 200, {"X_Robots_Tag": "noai, noimageai"}),
    "/loop": (b"", 302, {"Location": "/loop"}),
    "/html": (b"<html>not here any more</html>", 200, {}),
    "/cut": (image_bytes(1)[:700], 200, {}),
    "/bomb": (gzip.compress(b"\0" * 10_000_000), 200, {"Content_Encoding": "gzip"}),
    "/inside": (b"", 302, {"Location": "http://169.254.169.254/latest/meta-data"}),
}


class _Model(_Handler):
    """Endpoint that translates known texts, some of them badly on purpose."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with self.server.lock:
            self.server.asked[text] += 1
        self.server.bodies.append(body)
        time.sleep(self.server.delay_s)
        usage = {"prompt_tokens": len(text) // 3, "completion_tokens": len(text) // 3}
        reply = {"message": {"content": translated(text)}, "finish_reason": "stop"}
        if text.endswith(" [endless]"):
            reply["finish_reason"] = "length"
        answer = {"choices": [reply], "usage": usage}
        with contextlib.suppress(OSError):
            self._send(json.dumps(answer).encode())


class _Hub(_Handler):
    """The API of the hub that HfFileSystem uses, for one dataset; `files`: path -> content."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked[path] += 1
        known = f"/api/datasets/{HUB_NAME}"
        if path.startswith(f"{known}/tree/"):
            listed = [{"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                      for name, content in self.server.files.items()]  # fmt: skip
            self._send(json.dumps(listed).encode(), Content_Type="application/json")
        elif path == known or path.startswith(f"{known}/revision/"):
            about = {"id": HUB_NAME, "sha": HUB_COMMIT, "siblings": [], "private": False}
            about |= {"gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
            self._send(json.dumps(about).encode(), Content_Type="application/json")
        elif path.startswith(f"/datasets/{HUB_NAME}/resolve/{HUB_COMMIT}/"):
            self._file(self.server.files[path.partition(HUB_COMMIT)[2][1:]])
        else:
            self._send(b"", 404, X_Error_Code="RepoNotFound")

    def _file(self, content: bytes) -> None:
        start, end = 0, len(content) - 1
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last or end), end)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", HUB_COMMIT)
        self.send_header("Content-Length", str(end + 1 - start))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[start : end + 1])


def hub(files: dict[str, bytes]) -> contextlib.AbstractContextManager[ThreadingHTTPServer]:
    """Serve a hub with the single dataset `HUB_NAME`."""
    return serve(_Hub, files=files)


def translated(text: str) -> str:
    """Return the translation that the stand-in models give."""
    known = dict(pairs())
    if text.endswith(" [untranslated]"):
        return text
    if text.endswith(" [nothing]"):
        return ""
    if text in known:
        return f'"{known[text]}"'  # in quotation marks, as chatty models do
    return re.sub(r"[A-Z][^<>\n\d`]*", lambda m: known.get(m[0].strip(), m[0]), text)


@contextlib.contextmanager
def serve(handler: type[BaseHTTPRequestHandler], **state: Any) -> Iterator[ThreadingHTTPServer]:
    """Run a server on loopback in a thread."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.asked, server.bodies, server.lock = Counter(), [], threading.Lock()
    for name, value in state.items():
        setattr(server, name, value)
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def web() -> contextlib.AbstractContextManager[ThreadingHTTPServer]:
    """Serve images at /p/N, and the traps."""
    return serve(_Images)


def language_model(delay_s: float = 0.0) -> contextlib.AbstractContextManager[ThreadingHTTPServer]:
    """Serve an OpenAI-compatible endpoint; `asked` counts texts."""
    return serve(_Model, delay_s=delay_s)


# --- files ----------------------------------------------------------------------------------------


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write a file in the format of the hub."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=37)
    return str(path)


def image(seed: int) -> dict[str, Any]:
    """Return an image in the format of `datasets`."""
    return {"bytes": image_bytes(seed), "path": f"{seed}.png"}


def cc3m(path: Path, url: str, count: int) -> str:
    """Write HiTZ/ConceptualCaptions_eu: texts and URLs, with duplicates and traps."""
    traps = list(TRAPS)
    rows = []
    for number in range(count):
        en, eu = pairs()[number % 150]
        address = f"{url}/{('p', 'moved', 'busy')[number % 3]}/{number}"
        if number % 10 == 9:
            address = url + traps[number // 10 % len(traps)]
        rows.append({"id": number, "url": address, "caption_en": en, "caption_eu": eu})
    rows[2]["caption_eu"] = rows[2]["caption_en"]  # untranslated
    rows[3] = {**rows[0], "id": 3}  # a duplicate
    rows[4]["caption_en"] = "  "
    return write_parquet(path, rows)


def pixmo_ama(path: Path, url: str, count: int) -> str:
    """Write allenai/pixmo-ask-model-anything: published hashes, one of them wrong."""
    rows = [
        {
            "image_url": f"{url}/p/{1000 + number // 2}",
            "image_sha256": hashlib.sha256(image_bytes(1000 + number // 2)).hexdigest(),
            "question": pairs()[number % 100][0],
            "answer": pairs()[(number * 7 + 3) % 100][0],
        }
        for number in range(count)
    ]
    rows[1]["image_sha256"] = "0" * 64
    rows[5]["answer"] += " [untranslated]"
    rows[6]["answer"] += " [nothing]"
    rows[8]["answer"] += " [endless]"
    rows[7]["image_url"] = f"{url}/p/2000"  # an image of the benchmark
    rows[7]["image_sha256"] = hashlib.sha256(image_bytes(2000)).hexdigest()
    return write_parquet(path, rows)


def magpie(path: Path, count: int, *, side: int) -> str:
    """Write text conversations; the ids of the translated dataset name rows to leave out."""
    rows = []
    for number in range(count):
        texts = [pairs()[(number * 3 + turn) % 150][side] for turn in range(4)]
        turns = [{"role": ("user", "assistant")[at % 2], "content": text}
                 for at, text in enumerate(texts)]  # fmt: skip
        name = f"translation_{number}" if number % 5 == 4 else f"magpie_{number}"
        rows.append({"conversation_id": name, "conversations": turns})
    return write_parquet(path, rows)


def vqav2(path: Path, count: int, *, side: int) -> str:
    """Write a split of lukasArana/vqa-v2-eu."""
    rows = [
        {
            "question_id": number,
            "image": image(2000 + number // 3),
            "question": pairs()[150 + number % 70][side],
            "answers": [{"answer": pairs()[150 + number % 70][side], "answer_confidence": "yes",
                         "answer_id": at} for at in range(10)],
            "answer_type": "other",
            "question_type": "what is",
        }
        for number in range(count)
    ]  # fmt: skip
    return write_parquet(path, rows if side == 0 else rows[:-3])


def a_okvqa(path: Path, count: int, *, side: int) -> str:
    """Write a split of lukasArana/A-OK-VQA-eu, which stores choices as text."""
    rows = [
        {
            "question_id": f"q{number}",
            "image": image(3000 + number),
            "question": pairs()[150 + number % 70][side],
            "choices": str([pairs()[150 + (number + at) % 70][side] for at in range(4)]),
            "correct_choice_idx": str(number % 4),
        }
        for number in range(count)
    ]
    return write_parquet(path, rows)


def pixmo_cap_qa(path: Path, count: int, *, side: int) -> str:
    """Write a split of lukasArana/Pixmo-cap-qa-eu."""
    words = (("yes", "no"), ("bai", "ez"))[side]
    rows = [
        {"image": image(4000 + number), "question": pairs()[150 + number % 70][side],
         "answer": words[number % 2]}
        for number in range(count)
    ]  # fmt: skip
    return write_parquet(path, rows)


def wildvision(path: Path, count: int) -> str:
    """Write the English CohereLabs/m-WildVision, which has no translation that can be joined."""
    rows = [
        {"question_id": f"w{number}", "image": image(5000 + number), "language": "English",
         "question": pairs()[150 + number % 70][0]}
        for number in range(count)
    ]  # fmt: skip
    return write_parquet(path, rows)


def places(folder: Path, url: str, count: int) -> list[str]:
    """Write every source of the `paper` recipe and return the values for --set."""
    eu = "published.eu.place"
    return [
        f"cc3m.place={cc3m(folder / 'cc3m.parquet', url, count)}",
        f"pixmo_ama.place={pixmo_ama(folder / 'ama.parquet', url, count)}",
        f"magpie.place={magpie(folder / 'magpie.parquet', count, side=0)}",
        f"magpie.{eu}={magpie(folder / 'magpie_eu.parquet', count, side=1)}",
        f"vqav2.place={vqav2(folder / 'vqa_en.parquet', count, side=0)}",
        f"vqav2.{eu}={vqav2(folder / 'vqa_eu.parquet', count, side=1)}",
        f"a_okvqa.place={a_okvqa(folder / 'aok_en.parquet', count, side=0)}",
        f"a_okvqa.{eu}={a_okvqa(folder / 'aok_eu.parquet', count, side=1)}",
        f"pixmo_cap_qa.place={pixmo_cap_qa(folder / 'cap_en.parquet', count, side=0)}",
        f"pixmo_cap_qa.{eu}={pixmo_cap_qa(folder / 'cap_eu.parquet', count, side=1)}",
        f"wildvision.place={wildvision(folder / 'wild.parquet', count)}",
        "fetch.allow_private=true", "fetch.timeout_s=1.5", "fetch.wait_s=0.05",
        "fetch.max_bytes=2000000", "fetch.retries=1",
    ]  # fmt: skip


# --- a translation model that fits in a test ------------------------------------------------------


def make_marian(folder: Path, count: int = 40, steps: int = 150) -> Path:
    """Train a two-layer Marian model on a few pairs and convert it for CTranslate2."""
    import sentencepiece
    from ctranslate2.converters import TransformersConverter
    from transformers import MarianTokenizer

    hub = folder / "hub"
    hub.mkdir(parents=True, exist_ok=True)
    chosen = pairs()[:count]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for pair in chosen for text in pair]),
        model_prefix=str(hub / "source"), vocab_size=300, character_coverage=1.0,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (hub / "source.model").rename(hub / "source.spm")
    shutil.copy(hub / "source.spm", hub / "target.spm")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(hub / "source.spm"))
    tokens = ["</s>", "<unk>", *(pieces.id_to_piece(at) for at in range(3, len(pieces))), "<pad>"]
    vocabulary = {token: at for at, token in enumerate(tokens)}
    (hub / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = MarianTokenizer(
        str(hub / "source.spm"), str(hub / "target.spm"), str(hub / "vocab.json")
    )
    tokenizer.save_pretrained(hub)
    encoded = [
        [[vocabulary[piece] for piece in pieces.encode(pair[side], out_type=str)] + [0]
         for pair in chosen] for side in (0, 1)
    ]  # fmt: skip
    _train(encoded, len(tokens), steps).save_pretrained(hub)
    converter = TransformersConverter(str(hub), copy_files=["source.spm", "target.spm"])
    converter.convert(str(folder / "model"), force=True)
    return folder / "model"


def _train(encoded: list[list[list[int]]], size: int, steps: int) -> Any:
    import torch
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(0)
    pad = size - 1
    model = MarianMTModel(
        MarianConfig(
            vocab_size=size, d_model=96, encoder_layers=1, decoder_layers=1,
            encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=192,
            decoder_ffn_dim=192, dropout=0.0, pad_token_id=pad, eos_token_id=0,
            decoder_start_token_id=pad, forced_eos_token_id=0, max_position_embeddings=256,
            scale_embedding=True, activation_function="swish",
        )
    )  # fmt: skip
    inputs, labels = (
        torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in rows], batch_first=True, padding_value=pad
        )
        for rows in encoded
    )
    begin = torch.full_like(labels[:, :1], pad)
    decoder = torch.cat([begin, labels[:, :-1]], dim=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _ in range(steps):
        logits = model(
            input_ids=inputs, attention_mask=inputs != pad, decoder_input_ids=decoder
        ).logits
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=pad)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
