// The part of Preact that the dashboard uses.
export const Fragment: any;
export function h(type: any, props: any, ...children: any[]): any;
export function render(element: any, parent: Element): void;
