package journal

import "fmt"

// String shows a key as space, a and b: "C 12/81".
func (k Key) String() string {
	space, a, b := k.Parts()
	if space < ' ' || space > '~' {
		return fmt.Sprintf("0x%02x %d/%d", byte(space), a, b)
	}
	return fmt.Sprintf("%c %d/%d", byte(space), a, b)
}

// Space returns the key's space.
func (k Key) Space() Space { return Space(k[0]) }
