"""Train blocks: what E04, W03 and W04 codes mean.

In: nothing. Out: `TRAINING`, a part of the catalogue.
"""

from __future__ import annotations

from .catalogue_entry import DENSE, Entry, train

TRAINING = (
    Entry(
        "E0401", "an unknown field in a train block",
        "A train block has fixed fields, `metric`, `until`, `input` and `let`.",
        "model M(x: f32[B, 3]) -> y: f32[B, 3] {\n    y = 2 * x\n}\n"
        "train M {\n    loss = mean(y)\n    epoch = 10\n}",
        DENSE + "train M {\n    loss = mean(y)\n    epochs = 10\n    optimizer = sgd()\n}",
    ),
    Entry(
        "E0402", "two train blocks for one model",
        "A model is trained in one way in one file. Runs that differ in a few values use `--set`.",
        DENSE + "train M { loss = mean(y) }\ntrain M { loss = mean(y^2) }",
        DENSE + "train M { loss = mean(y); optimizer = sgd() }",
    ),
    Entry(
        "E0403", "training something that is not a model",
        "`train` is followed by the name of a `model` of this program.",
        "train Missing { loss = mean(y) }",
        DENSE + "train M { loss = mean(y); optimizer = sgd() }",
    ),
    Entry(
        "E0404", "a train block without a loss",
        "Training makes a number smaller: `loss` says which.",
        "model M(x: f32[B]) -> y: f32[B] {\n    y = 2 * x\n}\ntrain M { batch = 32 }",
        DENSE + "train M { batch = 32; loss = mean(y); optimizer = sgd() }",
    ),
    Entry(
        "E0405", "a field is set twice",
        "Each field, metric and `let` of a train block has one value.",
        DENSE + "train M {\n    loss = mean(y)\n    batch = 32\n    batch = 64\n}",
        DENSE + "train M {\n    loss = mean(y)\n    optimizer = sgd()\n    batch = 64\n}",
    ),
    Entry(
        "E0406", "not an optimizer",
        "The field `optimizer` names an `optimizer` of the program or the library, with settings.",
        "fn slow(p) = p\nmodel M(x: f32[B]) -> y: f32[B] {\n    y = 2 * x\n}\n"
        "train M {\n    loss = mean(y)\n    optimizer = slow(0.1)\n}",
        "optimizer slow(lr = 0.01) { p' = p - lr * g }\n" +
        DENSE + "train M {\n    loss = mean(y)\n    optimizer = slow(0.1)\n}",
    ),
    Entry(
        "E0407", "an input that the data do not have",
        "The inputs of a trained model are fields of its data, by their names.",
        train("model M(pixels: f32[B, 28, 28, 1]) -> y: f32[B, 10] {\n"
               "    y = pixels |> Flatten |> Dense(10)\n}\n",
               "data = mnist()", "loss = cross_entropy(y, label)", "optimizer = sgd()"),
        train("model M(image: f32[B, 28, 28, 1]) -> y: f32[B, 10] {\n"
               "    y = image |> Flatten |> Dense(10)\n}\n",
               "data = mnist()", "loss = cross_entropy(y, label)", "optimizer = sgd()"),
    ),
    Entry(
        "E0408", "data of another shape than the input",
        "After the batch, an input has the dimensions of one example of the data.",
        train("model M(image: f32[B, 784]) -> y: f32[B, 10] {\n    y = image |> Dense(10)\n}\n",
               "data = mnist()", "loss = cross_entropy(y, label)", "optimizer = sgd()"),
        train("model M(image: f32[B, 28, 28, 1]) -> y: f32[B, 10] {\n"
               "    y = image |> Flatten |> Dense(10)\n}\n",
               "data = mnist()", "loss = cross_entropy(y, label)", "optimizer = sgd()"),
    ),
    Entry(
        "E0409", "a field whose type is not known",
        "Without data at hand, the file itself says the types of the fields that the train block "
        "reads.",
        train(DENSE, "loss = mse(y, target)", "optimizer = sgd()"),
        train(DENSE, "input target: f32[B, 3]", "loss = mse(y, target)", "optimizer = sgd()"),
    ),
    Entry(
        "E0410", "not a single number",
        "A loss, a metric and a penalty are one number each: a `mean` or a `sum`.",
        train(DENSE, "loss = y^2", "optimizer = sgd()"),
        train(DENSE, "loss = mean(y^2)", "optimizer = sgd()"),
    ),
    Entry(
        "E0411", "a train block without an optimizer",
        "`optimizer` says how the gradient changes the parameters.",
        train(DENSE, "loss = mean(y^2)"),
        train(DENSE, "loss = mean(y^2)", "optimizer = adam(lr = 1e-3)"),
    ),
    Entry(
        "W0301", "a parameter that is not trained",
        "The loss does not depend on it, or only through `stop` or a comparison.",
        train("model M(x: f32[B, 3]) -> y: f32[B, 3] {\n    h = x |> Dense(3)\n"
               "    y = stop(h) |> Dense(3)\n}\n", "loss = mean(y^2)", "optimizer = sgd()"),
        train(DENSE, "loss = mean(y^2)", "optimizer = sgd()"),
    ),
    Entry(
        "W0302", "a loss that no parameter reaches",
        "Its gradient is zero everywhere: the loss is computed from the data alone, or reads the "
        "model only through `stop`, a comparison or a rounding.",
        train(DENSE, "loss = mean(stop(y)^2)", "optimizer = sgd()"),
        train(DENSE, "loss = mean(y^2)", "optimizer = sgd()"),
    ),
    Entry(
        "W0304", "a `remat` that saves nothing",
        "What a `remat` block is given and what is read after it is kept; what is between is "
        "computed again for the gradients. Here they need nothing that is between.",
        train("model M(x: f32[B, 3]) -> y: f32[B, 3] {\n    remat { y = x |> Dense(3) }\n}\n",
              "loss = mean(y^2)", "optimizer = sgd()"),
        train("model M(x: f32[B, 3]) -> y: f32[B, 3] {\n"
              "    remat { y = x |> Dense(3) |> tanh |> Dense(3) }\n}\n",
              "loss = mean(y^2)", "optimizer = sgd()"),
    ),
    Entry(
        "W0401", "probabilities where logits are expected",
        "A loss whose input is called `logits` applies softmax or sigmoid itself, in a form that "
        "cannot overflow. After another softmax the model learns slowly or not at all.",
        train("model M(x: f32[B, 3]) -> y: f32[B, 3] {\n    y = x |> Dense(3) |> softmax\n}\n",
               "input label: i32[B]", "loss = cross_entropy(y, label)", "optimizer = sgd()"),
        train("model M(x: f32[B, 3]) -> y: f32[B, 3] {\n    y = x |> Dense(3)\n}\n",
               "input label: i32[B]", "loss = cross_entropy(y, label)", "optimizer = sgd()"),
    ),
)  # fmt: skip
