// Opens what was saved with version 0.1.0 of the nodes: a workflow stores a node's values by their places.

import { app } from "../../scripts/app.js";

const NAMES = { width: "image_width", height: "image_height" };

const MENDED = {
  // The prompt stood right after index; a number does now.
  HiGFA_DatasetJob({ widgets_values: values }) {
    if (typeof values?.[3] !== "string") return;
    const [prompt, replicas, seed] = values.slice(3, 6);
    values.splice(3, 3, replicas, seed, prompt);
  },
  // The values keep their places; a link finds its input by name.
  HiGFA_TransformContour({ inputs }) {
    for (const input of inputs ?? []) {
      if (!(input.name in NAMES)) continue;
      input.name = NAMES[input.name];
      if (input.widget) input.widget.name = input.name;
    }
  },
};

app.registerExtension({
  name: "HiGFA.OldWorkflows",
  beforeRegisterNodeDef(nodeType, { name }) {
    if (!(name in MENDED)) return;
    const { configure } = nodeType.prototype;
    nodeType.prototype.configure = function (info) {
      MENDED[name](info);
      return configure.call(this, info);
    };
  },
});
