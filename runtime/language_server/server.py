"""The language server, `nnc-lsp`: the Language Server Protocol on standard input and output.

In: an editor's questions. Out: its answers, and diagnostics a moment after each change. The
protocol is pygls's, of the extra `lsp`.
"""

from __future__ import annotations

import asyncio
from importlib.resources import files
from pathlib import Path
from typing import Any

from lsprotocol import types as t
from pygls.exceptions import JsonRpcInvalidParams
from pygls.lsp.server import LanguageServer
from pygls.uris import from_fs_path, to_fs_path
from pygls.workspace import TextDocument

from ... import __version__
from ...dsl.check.library import read_source
from ...dsl.diagnostics.diagnostic import Diagnostic, Report
from ...dsl.syntax.source import Source, Span
from ..program_folders import programs_below
from . import answers
from .document import Document
from .workspace import real, used_paths

DELAY = 0.15  # seconds without a change until a text is examined

KINDS = {
    answers.VARIABLE: t.CompletionItemKind.Variable,
    answers.FUNCTION: t.CompletionItemKind.Function,
    answers.LAYER: t.CompletionItemKind.Class,
    answers.KEYWORD: t.CompletionItemKind.Keyword,
    answers.FIELD: t.CompletionItemKind.Property,
    answers.CONSTANT: t.CompletionItemKind.Constant,
}


class Server(LanguageServer):
    """The server, and the documents that it knows, by their addresses."""

    def __init__(self) -> None:
        super().__init__("nnc-lsp", __version__)
        self.documents: dict[str, tuple[int | None, Document]] = {}
        self.waiting: dict[str, asyncio.Task] = {}

    def document(self, uri: str) -> Document:
        """The text as the editor has it now."""
        text = self.workspace.get_text_document(uri)
        version, known = self.documents.get(uri, (None, None))
        if known is not None and version == text.version and known.source.text == text.source:
            return known
        path = Path(to_fs_path(uri) or "untitled.nn")
        found = Document(Source(str(path), text.source), path)
        if known is not None:
            found.examined, found.before = known.examined, known.declarations
        self.documents[uri] = text.version, found
        return found

    def text(self, uri: str) -> TextDocument:
        return self.workspace.get_text_document(uri)

    def uri(self, document: Document) -> str:
        """The address by which the editor knows a document, or would."""
        known = (uri for uri, (_, one) in self.documents.items() if one is document)
        return next(known, None) or from_fs_path(str(document.path.absolute())) or ""

    def every(self, document: Document) -> list[Document]:
        """The documents of the workspace; if the editor has none, those beside the open ones and
        what they use. As they are open, or as they lie on the disk; the document is one of them."""
        found = {real(document.path): document}
        for uri in list(self.workspace.text_documents):
            open_one = self.document(uri)
            found.setdefault(real(open_one.path), open_one)
        roots = [to_fs_path(folder.uri) for folder in self.workspace.folders.values()]
        around = [Path(root) for root in (*roots, self.workspace.root_path) if root]
        # A folder that no one has called a workspace may be a whole disk: nothing below it.
        beside = [] if around else [p for path in found for p in path.parent.glob("*.nn")]
        waiting = [*(path for root in around for path in programs_below(root)), *beside]
        waiting += [path for one in found.values() for path in used_paths(one)]
        while waiting:
            path = waiting.pop()
            if real(path) not in found and (source := read_source(path, Report())):
                one = found[real(path)] = Document(source, path)
                waiting += used_paths(one)
        return list(found.values())

    # --- diagnostics ------------------------------------------------------------------------------

    def changed(self, uri: str) -> None:
        """Examine the text as soon as it rests."""
        if before := self.waiting.pop(uri, None):
            before.cancel()
        self.waiting[uri] = asyncio.ensure_future(self._examine(uri))

    async def _examine(self, uri: str) -> None:
        await asyncio.sleep(DELAY)
        document = self.document(uri)
        try:
            await asyncio.get_running_loop().run_in_executor(None, document.examine)
        except Exception as error:  # a bug of nnc's: the editor goes on without
            text = f"nnc could not check {document.path.name}: {type(error).__name__}: {error}"
            self.window_log_message(t.LogMessageParams(t.MessageType.Error, text))
            return
        # What has been typed meanwhile will be examined by itself.
        if self.document(uri) is document:
            self.publish(uri, document)

    def publish(self, uri: str, document: Document) -> None:
        text, shown = self.text(uri), document.examined.diagnostics
        found = [_diagnostic(one, document, text) for one in shown]
        version = self.text(uri).version
        self.text_document_publish_diagnostics(t.PublishDiagnosticsParams(uri, found, version))


def _diagnostic(one: Diagnostic, document: Document, text: TextDocument) -> t.Diagnostic:
    span = one.span.user_span if one.span is not None else None
    here = span is not None and span.source is document.source
    message = one.message + (f"\n{one.label}" if one.label else "")
    # A mistake in a used file, or in the data, is shown at the beginning.
    place = f"{span}: " if span is not None and not here else ""
    notes = [
        t.DiagnosticRelatedInformation(_location(note.span, document, text), note.text)
        for note in one.notes
    ]
    return t.Diagnostic(
        _range(span, text) if here and span else t.Range(t.Position(0, 0), t.Position(0, 0)),
        f"{place}{message}" + (f"\nhelp: {one.help}" if one.help else ""),
        t.DiagnosticSeverity.Error if one.is_error else t.DiagnosticSeverity.Warning,
        code=one.code,
        source="nnc",
        related_information=notes or None,
    )


# --- places ---------------------------------------------------------------------------------------


def _range(span: Span, text: TextDocument) -> t.Range:
    """A span of the document; where it is empty, the character there."""
    end = max(span.end, span.start + 1)
    return t.Range(text.client_position_at_offset(span.start), text.client_position_at_offset(end))


def _location(span: Span, document: Document, text: TextDocument) -> t.Location:
    source = span.source
    if source is document.source:
        return t.Location(text.uri, _range(span, text))
    # Columns of other files count characters: the library is ASCII, and editors clip.
    (line, column), (end_line, end_column) = map(source.position, (span.start, span.end))
    found = t.Range(t.Position(line - 1, column - 1), t.Position(end_line - 1, end_column - 1))
    path = _library_file(source.name) if source.library else Path(source.name).absolute()
    return t.Location(from_fs_path(str(path)) or "", found)


def _library_file(name: str) -> Path:
    """The file of a text of the library, `stdlib/dense.nn`."""
    return Path(str(files("nnc.dsl").joinpath(name)))


# --- the protocol ---------------------------------------------------------------------------------

server = Server()


@server.feature(t.TEXT_DOCUMENT_DID_OPEN)
async def did_open(ls: Server, params: t.DidOpenTextDocumentParams) -> None:
    ls.changed(params.text_document.uri)


@server.feature(t.TEXT_DOCUMENT_DID_CHANGE)
async def did_change(ls: Server, params: t.DidChangeTextDocumentParams) -> None:
    ls.changed(params.text_document.uri)


@server.feature(t.TEXT_DOCUMENT_DID_SAVE)
async def did_save(ls: Server, params: t.DidSaveTextDocumentParams) -> None:
    ls.changed(params.text_document.uri)


@server.feature(t.TEXT_DOCUMENT_DID_CLOSE)
async def did_close(ls: Server, params: t.DidCloseTextDocumentParams) -> None:
    uri = params.text_document.uri
    if task := ls.waiting.pop(uri, None):
        task.cancel()
    ls.documents.pop(uri, None)
    ls.text_document_publish_diagnostics(t.PublishDiagnosticsParams(uri, []))


def _at(ls: Server, params: Any) -> tuple[Document, TextDocument, int]:
    uri = params.text_document.uri
    text = ls.text(uri)
    return ls.document(uri), text, text.offset_at_position(params.position)


@server.feature(t.TEXT_DOCUMENT_HOVER)
def hover(ls: Server, params: t.HoverParams) -> t.Hover | None:
    document, text, offset = _at(ls, params)
    found = answers.hover(document, offset)
    if found is None:
        return None
    markdown, word = found
    span = Span(document.source, word.start, word.end)
    return t.Hover(t.MarkupContent(t.MarkupKind.Markdown, markdown), _range(span, text))


@server.feature(t.TEXT_DOCUMENT_DEFINITION)
def definition(ls: Server, params: t.DefinitionParams) -> t.Location | None:
    document, text, offset = _at(ls, params)
    span = answers.definition(document, offset)
    return _location(span, document, text) if span else None


@server.feature(t.TEXT_DOCUMENT_REFERENCES)
def references(ls: Server, params: t.ReferenceParams) -> list[t.Location]:
    document, text, offset = _at(ls, params)
    found = answers.places(document, offset, ls.every(document))
    return [_location(span, document, text) for _, spans in found for span in spans]


@server.feature(t.TEXT_DOCUMENT_COMPLETION, t.CompletionOptions(trigger_characters=[">", "("]))
def completion(ls: Server, params: t.CompletionParams) -> t.CompletionList:
    document, _, offset = _at(ls, params)
    items = [
        t.CompletionItem(
            one.name,
            kind=KINDS[one.kind],
            detail=one.detail or None,
            documentation=t.MarkupContent(t.MarkupKind.Markdown, one.doc) if one.doc else None,
            sort_text=f"{one.rank}{one.name}",
        )
        for one in answers.completions(document, offset)
    ]
    return t.CompletionList(False, items)


@server.feature(t.TEXT_DOCUMENT_FORMATTING)
def formatting(ls: Server, params: t.DocumentFormattingParams) -> list[t.TextEdit]:
    uri = params.text_document.uri
    document, text = ls.document(uri), ls.text(uri)
    laid_out = answers.laid_out(document)
    if laid_out is None or laid_out == text.source:
        return []
    end = text.client_position_at_offset(len(text.source))
    return [t.TextEdit(t.Range(t.Position(0, 0), end), laid_out)]


@server.feature(t.TEXT_DOCUMENT_PREPARE_RENAME)
def prepare_rename(ls: Server, params: t.PrepareRenameParams) -> t.Range:
    document, text, offset = _at(ls, params)
    try:
        word = answers.renamable(document, offset, ls.every(document))
    except answers.CannotRename as error:
        raise JsonRpcInvalidParams(str(error)) from error
    return _range(Span(document.source, word.start, word.end), text)


@server.feature(t.TEXT_DOCUMENT_RENAME, t.RenameOptions(prepare_provider=True))
def rename(ls: Server, params: t.RenameParams) -> t.WorkspaceEdit:
    document, _, offset = _at(ls, params)
    try:
        found = answers.renaming(document, offset, params.new_name, ls.every(document))
    except answers.CannotRename as error:
        raise JsonRpcInvalidParams(str(error)) from error
    changes: dict[str, list[t.TextEdit]] = {}
    for other, spans in found:
        # Each file counts columns by its own text.
        uri = ls.uri(other)
        changes[uri] = [t.TextEdit(_range(span, ls.text(uri)), params.new_name) for span in spans]
    return t.WorkspaceEdit(changes=changes)
