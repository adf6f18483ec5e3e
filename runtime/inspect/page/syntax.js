"use strict";

// Colours of words. A rule is a pattern and the kind of each of its groups, or of the whole match;
// those of the language `nn` come with the data, from the table that editors use, too.

const words = (text) => `(?<![\\w.%@])(?:${text.split(" ").join("|")})\\b`;

const NUMBER = ["-?\\b(?:0x[0-9a-fA-F]+|\\d[\\d,_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?)\\b", ["number"]];
const STRING = ['"(?:\\\\.|[^"\\\\])*"', ["string"]];

const RULES = {
  kernels: [
    [words("kernel scan blocks prologue until by"), ["keyword"]],
  ],
  loops: [
    ["#[^\\n]*", ["comment"]],
    [words("nest grid persistent loop parallel serial for reduce until from where blocks pack" +
           " prefetch start of step by and if else"), ["keyword"]],
    [words("acc\\d*"), ["builtin"]],
    [words("sum max min prod argmax argmin"), ["builtin"]],
  ],
  llvm: [
    [";[^\\n]*", ["comment"]],
    [STRING[0], ["string"]],
    ["@(?:\"[^\"]*\"|[\\w.$-]+)", ["function"]],
    ["%[\\w.$-]+|#\\d+", ["name"]],
    ["^[\\w.]+:", ["class"]],
    [words("i\\d+ float double half bfloat ptr void x label"), ["type"]],
    ["\\b[a-z][a-z_.]*\\b", ["keyword"]],
    NUMBER,
  ],
  asm: [
    ["#[^\\n]*", ["comment"]],
    ["^[\\w.$'\"]+:", ["class"]],
    [STRING[0], ["string"]],
    ["\\t\\.\\w+", ["comment"]],
    ["\\t[a-z][\\w.]*", ["keyword"]],
    ["%[\\w]+", ["type"]],
    ["[.]?L[\\w.]+", ["class"]],
    ["\\$?-?(?:0x[0-9a-fA-F]+|\\b\\d+)\\b", ["number"]],
  ],
  cuda: [
    ["//[^\\n]*", ["comment"]],
    STRING,
    [words("for if else return const switch case break while do static inline __restrict__" +
           " template typename struct true false"), ["keyword"]],
    [words("KERNEL DEVICE SHARED AT THREAD BLOCK"), ["builtin"]],
    [words("void bool int float double unsigned [iuf]\\d+ bf16 auto"), ["type"]],
    NUMBER,
    ["[A-Za-z_][\\w:]*(?=\\()", ["function"]],
    ["[A-Za-z_]\\w*", ["name"]],
  ],
};
const LONGEST = 4000; // characters of a line that are coloured

class Syntax {
  constructor(rulesOfLanguage) {
    const rules = { nn: rulesOfLanguage, ...RULES };
    for (const name of ["kernels", "loops"]) rules[name] = [...rules[name], ...rulesOfLanguage];
    this.rules = {};
    for (const [language, list] of Object.entries(rules))
      this.rules[language] = list.map(([pattern, kinds]) => [new RegExp(pattern, "y"), kinds]);
  }

  // The line as HTML; what is `found` is marked.
  html(language, line, found = "") {
    if (found && line.toLowerCase().includes(found)) return this.marked(line, found);
    let html = "", plain = "";
    const flush = () => { html += escaped(plain); plain = ""; };
    let at = 0;
    while (at < line.length && at < LONGEST) {
      const [match, kinds] = this.match(language, line, at);
      if (!match) { plain += line[at++]; continue; }
      flush();
      const parts = kinds.length > 1 ? match.slice(1) : [match[0]];
      parts.forEach((part, n) => { html += token(part, kinds[n]); });
      at += match[0].length;
    }
    plain += line.slice(at);
    flush();
    return html;
  }

  match(language, line, at) {
    for (const [rule, kinds] of this.rules[language]) {
      rule.lastIndex = at;
      const match = rule.exec(line);
      if (match && match[0]) return [match, kinds];
    }
    return [null, null];
  }

  marked(line, found) {
    const lower = line.toLowerCase();
    let html = "", from = 0;
    for (let at = lower.indexOf(found); at >= 0; at = lower.indexOf(found, from)) {
      html += `${escaped(line.slice(from, at))}<mark>${escaped(line.slice(at, at + found.length))}</mark>`;
      from = at + found.length;
    }
    return html + escaped(line.slice(from));
  }
}

function token(text, kind) {
  if (!text) return "";
  return kind && kind !== "name" && kind !== "punctuation"
    ? `<span class="t-${kind}">${escaped(text)}</span>` : escaped(text);
}

function escaped(text) {
  return text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" }[c]));
}
