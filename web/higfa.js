// What the HiGFA nodes add to ComfyUI's page.

import { app } from "../../scripts/app.js";

const isOurs = (node) => node.comfyClass?.startsWith("HiGFA_");

// The classic canvas can hide advanced widgets, but is not told which ones they are, and keeps their space. Nodes 2.0
// hides them by itself.
function hideAdvanced(node) {
  const linked = new Set(node.inputs?.filter((input) => input.link != null).map((input) => input.widget?.name));
  const advanced = (node.widgets ?? []).filter((widget) => widget.options?.advanced);
  for (const widget of advanced.flatMap((widget) => [widget, ...(widget.linkedWidgets ?? [])])) {
    widget.advanced = !linked.has(widget.name);
    widget.computeSize = (width) => [width, node.isWidgetVisible(widget) ? heightOf(widget) : -SPACING];
  }
  if (advanced.length) addToggle(node, advanced.length);
}

const SPACING = 4;
const heightOf = (widget) => (widget.element ? 60 : LiteGraph.NODE_WIDGET_HEIGHT);

function addToggle(node, count) {
  if (node.widgets.some((widget) => widget.name === TOGGLE)) return;
  const options = { canvasOnly: true, serialize: false };
  const toggle = node.addWidget("button", TOGGLE, null, () => {
    node.toggleAdvanced();
    node.setSize([node.size[0], node.computeSize()[1]]);
  }, options);
  toggle.serialize = false;
  const label = () => (node.showAdvanced ? "Hide advanced inputs" : `Show ${count} advanced inputs`);
  Object.defineProperty(toggle, "label", { get: label, set() {} });
}

const TOGGLE = "higfa_advanced";

app.registerExtension({
  name: "HiGFA",
  nodeCreated(node) {
    if (!isOurs(node)) return;
    hideAdvanced(node);
    node.setSize([node.size[0], node.computeSize()[1]]);
  },
  loadedGraphNode(node) {
    if (isOurs(node)) hideAdvanced(node);
  },
});
