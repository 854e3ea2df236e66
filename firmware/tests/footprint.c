/* One handle: what `size` finds in .bss is what an application sets aside for the driver. */
#include "moesaic.h"

extern moesaic_device footprint;
moesaic_device footprint;
