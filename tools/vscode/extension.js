// Starts the language server for .nn files, and stops it with the editor.
const { workspace } = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

exports.activate = () => {
  const command = workspace.getConfiguration("nnc").get("server");
  client = new LanguageClient("nnc", "nnc", { command }, { documentSelector: [{ language: "nn" }] });
  return client.start();
};

exports.deactivate = () => client && client.stop();
