"""Renders templates with Apache FreeMarker, as Amplitude's webhooks do."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_JAR = Path("/usr/share/java/freemarker.jar")
_RENDER = """
import freemarker.template.*;
import java.io.*;
import java.nio.file.*;
import java.util.*;

class Render {
    public static void main(String[] paths) throws Exception {
        Configuration configuration = new Configuration(Configuration.VERSION_2_3_31);
        configuration.setLocale(Locale.US);
        String text = "<#assign input = sent_?eval_json>" + Files.readString(Path.of(paths[0]));
        Writer out = new OutputStreamWriter(System.out, "UTF-8");
        new Template("it", text, configuration).process(Map.of("sent_", Files.readString(Path.of(paths[1]))), out);
    }
}
"""


@functools.cache
def missing() -> str:
    """Return the command that installs FreeMarker; an empty text if FreeMarker is installed."""
    available = shutil.which("javac") and _JAR.exists()
    return (
        "" if available else "FreeMarker is not installed; run apt-get install default-jdk-headless libfreemarker-java"
    )


def render(template: str, data: Any) -> str:
    """Render `template`. The template refers to `data` as `input`."""
    with TemporaryDirectory() as folder:
        program, text, sent = (Path(folder) / name for name in ("Render.java", "template.ftl", "input.json"))
        program.write_text(_RENDER, encoding="utf-8")
        text.write_text(template, encoding="utf-8")
        sent.write_text(json.dumps(data), encoding="utf-8")
        # One compiler level and one collector thread halve the processor time of a short program.
        options = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8", "-cp", f"{_JAR}"]
        command = ["java", *options, f"{program}", f"{text}", f"{sent}"]
        ended = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.decode()
