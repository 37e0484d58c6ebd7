// What the server and the clients have in common: orders, and what they say, in lines of JSON.
import { readFileSync } from 'node:fs'
import readline from 'node:readline'

export const say = line => process.stdout.write(JSON.stringify(line) + '\n')

// The same clock in all processes of the machine, in nanoseconds.
export const now = () => Number(process.hrtime.bigint())

export const isRight = (doc, path) => doc !== undefined && doc.getText('text').toString() === readFileSync(path, 'utf8')

// Follows orders one after the other; the end of them is the end.
export const orders = async handlers => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const order = JSON.parse(line)
    await handlers[order.order](order)
  }
  process.exit(0)
}
