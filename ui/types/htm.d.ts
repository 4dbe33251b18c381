// htm, bound to a function that makes elements.
declare const htm: { bind(make: (type: any, props: any, ...children: any[]) => any): (parts: TemplateStringsArray, ...values: any[]) => any };
export default htm;
